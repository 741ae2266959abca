"""Two data sets as one: of a few pictures none is held out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from reverie.core.batch import Batch, Dataset, DataSpec


class Together(Dataset):
    """The pictures of both, those of the first in front."""

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
        return Batch(torch.cat([one.x for one in each]))
