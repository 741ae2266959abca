"""`ImageSet`: labelled pictures as uint8, in memory or memory-mapped, handed out as floats in [-1, 1]."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from reverie.core.batch import Batch, Dataset, DataSpec
from reverie.core.condition import Cond, Conditions, Label


class Skipped(NamedTuple):
    """A file that was left out, by its path relative to the folder, and why."""

    path: str
    reason: str


@dataclass(frozen=True, eq=False)
class ImageSet(Dataset):
    """Pictures of one split of a data set.

    `store` holds all pictures of the data set (perhaps on disk, memory-mapped), `rows` says which belong to this split.
    """

    name: str
    split: str
    store: UInt8[Tensor, "m c h w"]
    rows: Int64[Tensor, " n"]
    labels: Int64[Tensor, " n"] | None = None
    classes: list[str] = field(default_factory=list)
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Text columns, one string a picture: ``path`` of a folder; ``name``, ``category`` … of the emoji."""
    text: str | None = None
    """The column that describes the pictures in words."""
    skipped: list[Skipped] = field(default_factory=list)
    """Files of the folder that were left out (of all splits together)."""
    notes: list[str] = field(default_factory=list)
    """What was inferred rather than asked for, in sentences to show the user."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def channels(self) -> int:
        """1 (grey) or 3 (RGB)."""
        return self.store.shape[1]

    @property
    def size(self) -> int:
        """Side of the square pictures in pixels."""
        return self.store.shape[2]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one picture."""
        return self.channels, self.size, self.size

    @property
    def texts(self) -> list[str] | None:
        """A description of each picture, or None."""
        return list(self.columns[self.text]) if self.text else None

    @cached_property
    def images(self) -> UInt8[Tensor, "n c h w"]:
        """All pictures of the split as uint8 in memory; for a set too big for that use `batch`."""
        return self.store[self.rows]

    @property
    def spec(self) -> DataSpec:
        """What models have to know of the pictures."""
        conditions: Conditions = {} if self.labels is None else {"label": Label(len(self.classes))}
        return DataSpec(self.shape, conditions, tuple(self.classes), self.name)

    def batch(self, positions: Tensor | Sequence[int]) -> Batch:
        """The pictures at ``positions`` (0 … len − 1), float32 in [-1, 1], with their labels if there are any."""
        chosen = torch.as_tensor(positions, dtype=torch.int64)
        images = self.store[self.rows[chosen]].float().div_(127.5).sub_(1)
        return Batch(images, None if self.labels is None else Cond(label=self.labels[chosen]))
