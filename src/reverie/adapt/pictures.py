"""Two data sets as one: of a few pictures none is held out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from reverie.core.batch import Batch, Dataset, DataSpec


class Together(Dataset):
    """The pictures of both, those of the first in front; where they have maps, with ``extra["mask"]``, see :func:`mask_of`."""

    def __init__(self, first: Dataset, second: Dataset) -> None:
        self.first, self.second, self.name = first, second, first.name

    @property
    def spec(self) -> DataSpec:
        return self.first.spec

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def batch(self, positions: Tensor | Sequence[int]) -> Batch:
        count = len(self.first)
        each = [self.first.batch([i]) if i < count else self.second.batch([i - count]) for i in map(int, positions)]
        masks = [mask for mask in map(mask_of, each) if mask is not None]
        return Batch(torch.cat([one.x for one in each]), None, {"mask": torch.cat(masks)} if masks else {})


def mask_of(batch: Batch) -> Tensor | None:
    """Where the subjects of pictures are, by their maps, (B, 1, H, W) of zeros and ones: where there is a class, or a bright colour; in one
    that marks nothing, everywhere."""
    if batch.cond is None or "image" not in batch.cond:
        return None
    mask = (batch.cond["image"].value.amax(1, keepdim=True) > 0.0).float()
    return torch.where(mask.any(3, True).any(2, True), mask, 1.0)
