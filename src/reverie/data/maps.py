"""Layouts as pictures: boxes, masks and semantic maps, a channel a class, told to a network beside the noise as the condition "image".

The map joins the channels of the input, as the damaged picture of Palette does (Saharia et al. 2022); boxes and masks told in this way:
Hu et al. 2023, "Self-guided diffusion models", section 3.2, whose own annotations are made by :func:`reverie.guide.boxes` and
:func:`reverie.guide.masks`.
"""

from __future__ import annotations

import colorsys
import hashlib
import json
from abc import ABC, abstractmethod
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
Place = tuple[int, float, float, float, float]
"""(class, top, left, bottom, right) of a box, in shares of the picture's height and width."""
BOXES = "boxes"
"""What belongs to a sample and is no condition: its boxes, (M, 5)."""
NONE = 255
"""The value of a pixel of no class."""


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


def painted(places: Sequence[Sequence[Place]], classes: int, size: tuple[int, int]) -> Tensor:
    """Boxes in shares as maps (N, classes, H, W), each of a pixel at least, see :func:`boxes`."""

    def side(low: float, high: float, n: int) -> tuple[int, int]:
        first = min(round(low * n), n - 1)
        return first, max(first + 1, round(high * n))

    layouts: list[list[Box]] = []
    for several in places:
        own: list[Box] = []
        for kind, top, left, bottom, right in several:
            (y, below), (x, beyond) = side(top, bottom, size[0]), side(left, right, size[1])
            own.append((kind, y, x, below, beyond))
        layouts.append(own)
    return boxes(layouts, classes, size)


class Layout(ABC):
    """What lies where in each of the pictures of a data set.

    Args:
        classes: their names; none for maps of colours.
    """

    classes: tuple[str, ...]

    @property
    def channels(self) -> int:
        """Of a map: one a class, or red, green and blue."""
        return len(self.classes) or 3

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def maps(self, rows: Tensor) -> Tensor:
        """The maps of pictures, (B, channels, H, W): 1 where the class is and 0 elsewhere, or colours in [−1, 1]."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of all maps in their order."""

    def seen(self, rows: Tensor) -> Tensor:
        """The maps to look at, (B, 3, H, W) in [−1, 1], a colour a class on black."""
        told, n = self.maps(rows), len(self.classes)
        hues = torch.tensor([colorsys.hsv_to_rgb(i / n, 0.8, 1.0) for i in range(n)])
        return 2.0 * torch.einsum("bkhw,kc->bchw", told, hues).clamp(max=1.0) - 1.0 if n else told


class Painted(Layout):
    """Maps of pixels.

    Args:
        values: uint8, class numbers (M, H, W), :data:`NONE` where there is none, or colours (M, 3, H, W).
        rows: of each picture its map.
        classes: as of :class:`Layout`.
    """

    def __init__(self, values: Tensor, rows: Sequence[int], classes: tuple[str, ...]) -> None:
        self.values, self.rows, self.classes = values, torch.tensor(rows, dtype=torch.int64), classes

    def __len__(self) -> int:
        return len(self.rows)

    def maps(self, rows: Tensor) -> Tensor:
        values = self.values[self.rows[rows]]
        if not self.classes:
            return values.float().div(127.5).sub(1.0)
        labels = values.long()
        return semantic(labels.masked_fill(labels == NONE, -1), len(self.classes))

    @property
    def fingerprint(self) -> str:
        said = hashlib.sha256(json.dumps(["maps", *self.classes]).encode())
        for rows in self.rows.split(4096):
            said.update(self.values[rows].numpy().tobytes())
        return said.hexdigest()


class Boxed(Layout):
    """Boxes.

    Args:
        places: of each picture its boxes.
        classes: as of :class:`Layout`.
        size: (H, W) of the pictures.
    """

    def __init__(self, places: Sequence[Sequence[Place]], classes: tuple[str, ...], size: tuple[int, int]) -> None:
        self.places, self.classes, self.size = places, classes, size

    def __len__(self) -> int:
        return len(self.places)

    def maps(self, rows: Tensor) -> Tensor:
        return painted([self.places[row] for row in rows.tolist()], len(self.classes), self.size)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(["boxes", self.classes, self.places]).encode()).hexdigest()


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
