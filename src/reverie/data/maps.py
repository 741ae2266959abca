"""Layouts as pictures: boxes, masks and semantic maps, a channel a class, told to a network beside the noise as the condition "image".

The map joins the channels of the input, as the damaged picture of Palette does (Saharia et al. 2022); boxes and masks told in this way:
Hu et al. 2023, "Self-guided diffusion models", section 3.2, whose own annotations are made by :func:`reverie.guide.boxes` and
:func:`reverie.guide.masks`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from reverie.core.batch import Batch, Dataset, DataSpec
from reverie.core.condition import Cond, Image
from reverie.core.errors import InputError

Box = tuple[int, int, int, int, int]
"""(class, top, left, bottom, right) in pixels, the last two outside of it."""


def boxes(layouts: Sequence[Sequence[Box]], classes: int, size: tuple[int, int]) -> Tensor:
    """Boxes as maps (N, classes, H, W): 1 inside a box of the class, 0 elsewhere.

    Args:
        layouts: of each picture its boxes.
        classes: how many there are.
        size: (H, W) of the pictures.

    Raises:
        InputError: for a class that there is not, or a box that is empty or not inside the picture.
    """
    maps = torch.zeros(len(layouts), classes, *size)
    for i, several in enumerate(layouts):
        for kind, top, left, bottom, right in several:
            if not (0 <= kind < classes and 0 <= top < bottom <= size[0] and 0 <= left < right <= size[1]):
                raise InputError(
                    f"a box is (class, top, left, bottom, right), a class 0 to {classes - 1} in pictures of {size[0]}x{size[1]}: "
                    f"got {(kind, top, left, bottom, right)} in layout {i}"
                )
            maps[i, kind, top:bottom, left:right] = 1.0
    return maps


def semantic(labels: Tensor, classes: int) -> Tensor:
    """The class of each pixel, (N, H, W) whole numbers, −1 for none, as maps (N, classes, H, W) of zeros and ones.

    Raises:
        InputError: for a class that there is not.
    """
    if labels.is_floating_point() or labels.ndim != 3 or labels.min() < -1 or labels.max() >= classes:
        raise InputError(
            f"a semantic map is (N, H, W) whole numbers, −1 to {classes - 1}: got {labels.dtype} {tuple(labels.shape)} of "
            f"{labels.min().item()} to {labels.max().item()}"
        )
    return F.one_hot(labels.long() + 1, classes + 1)[..., 1:].permute(0, 3, 1, 2).float()


class Mapped(Dataset):
    """Pictures that are told by a map of each, beside what else they are told.

    Args:
        data: pictures (C, H, W).
        maps: (N, channels, H, W), floating.

    Raises:
        InputError: for maps of another number or size than the pictures.
    """

    def __init__(self, data: Dataset, maps: Tensor) -> None:
        wanted = (len(data), *data.spec.shape[1:])
        if maps.ndim != 4 or not maps.is_floating_point() or (len(maps), *maps.shape[2:]) != wanted:
            raise InputError(
                f"there is a map of floating numbers for each of {wanted[0]} pictures, (n, channels, {wanted[1]}, {wanted[2]}): got "
                f"{maps.dtype} {tuple(maps.shape)}"
            )
        self.data, self.maps, self.name = data, maps, data.name

    @property
    def spec(self) -> DataSpec:
        spec = self.data.spec
        conditions = {**spec.conditions, "image": Image(self.maps.shape[1])}
        return DataSpec(spec.shape, conditions, spec.classes, spec.name, spec.range)

    @cached_property
    def fingerprint(self) -> str:
        """That of the pictures and their maps."""
        said = hashlib.sha256(self.data.fingerprint.encode())  # pyright: ignore[reportAttributeAccessIssue]
        said.update(self.maps.contiguous().numpy().tobytes())
        return said.hexdigest()

    def __len__(self) -> int:
        return len(self.data)

    def batch(self, positions: Tensor | Sequence[int]) -> Batch:
        rows = torch.as_tensor(positions, dtype=torch.int64)
        batch = self.data.batch(rows)
        others = {name: batch.cond[name] for name in batch.cond} if batch.cond is not None else {}
        return Batch(batch.x, Cond(**others, image=self.maps[rows]), batch.extra)
