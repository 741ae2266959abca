"""Data sets of others as ours: anything with a length whose items are (picture, label)."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from reverie.core.batch import Batch, Dataset, DataSpec
from reverie.core.condition import Cond, Label
from reverie.core.errors import InputError
from reverie.data import pixels
from reverie.data.items import checked, names, parted

SLACK = 0.02
"""Of the range of float tensors, by which a value may lie beyond it, as resizing leaves it."""


class Items(Protocol):
    """A map-style data set, as torch calls it."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Any: ...


class Wrapped(Dataset):
    """A map-style data set of (picture, label) or of pictures alone, such as torch's users have.

    Args:
        items: pictures are Pillow images, uint8 tensors or arrays (C, H, W), or float tensors.
        classes: names of the classes, if items have labels; those that the set names itself (``items.classes``) by default.
        name: of the set.
        size: height and width, or the side of squares, for Pillow images; those of the first one by default.
        channels: 1 or 3, for Pillow images; those of the first one by default.
        fit: how Pillow images become one of that size.
        floats: the range of float tensors, which is brought to [−1, 1]: (0, 1) behind torchvision's ``ToTensor``.

    Raises:
        InputError: for an empty set, labels without ``classes`` and the other way round, float tensors without a range or beyond it.
    """

    def __init__(
        self,
        items: Items,
        classes: Sequence[str] = (),
        *,
        name: str = "items",
        size: pixels.Size | None = None,
        channels: int | None = None,
        fit: pixels.Fit = "crop",
        floats: tuple[float, float] | None = None,
    ) -> None:
        pixels.check_options(size, channels, fit)
        if not len(items):
            raise InputError(f"{name} holds no items")
        self.items, self.name, self.floats = items, name, floats
        self.fit: pixels.Fit = fit
        picture, label, _ = parted(items[0])
        self.classes = tuple(classes or (names(items) if label is not None else ()))
        if (label is None) == bool(self.classes):
            raise InputError(
                f"items of {name} are {'pictures' if label is None else '(picture, label)'}: "
                "give the names of the classes if there are labels"
            )
        if isinstance(picture, Image.Image):
            size = size or (picture.height, picture.width)
            channels = channels or (1 if pixels.grey_header(picture) else 3)
        self.size, self.channels = size, channels
        self.shape = tuple(self._tensor(picture, 0).shape)

    @property
    def spec(self) -> DataSpec:
        return DataSpec(
            self.shape, {"label": Label(len(self.classes))} if self.classes else {}, self.classes, self.name
        )

    def __len__(self) -> int:
        return len(self.items)

    def batch(self, positions: Tensor | Sequence[int]) -> Batch:
        """The items at ``positions``, pictures as float32 in [−1, 1].

        Raises:
            InputError: for a picture of another shape than the first.
        """
        positions = [int(i) for i in positions]
        each = [parted(self.items[i]) for i in positions]
        pictures = [self._tensor(item.picture, i) for item, i in zip(each, positions, strict=True)]
        for position, picture in zip(positions, pictures, strict=True):
            if picture.shape != self.shape:
                raise InputError(
                    f"item {position} of {self.name} has shape {tuple(picture.shape)}, the first {self.shape}"
                )
        labels = [int(item.label) for item in each if item.label is not None]
        return Batch(torch.stack(pictures), Cond(label=labels) if self.classes else None)

    def _tensor(self, picture: Any, position: int) -> Tensor:
        called = f"item {position} of {self.name}"
        if isinstance(picture, Image.Image):
            assert self.size is not None and self.channels is not None
            picture = pixels.to_array(picture, self.size, self.channels, self.fit)
        value = torch.from_numpy(np.array(picture)) if isinstance(picture, np.ndarray) else picture
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return checked(value, called).float().div_(127.5).sub_(1.0)
        if self.floats is None:
            raise InputError(f"the values of {called} are {value.dtype}: say their range, such as floats=(0, 1)")
        low, high = self.floats
        least, most = value.min().item(), value.max().item()
        if not low - SLACK * (high - low) <= least <= most <= high + SLACK * (high - low):
            raise InputError(
                f"{called} has values from {least:g} to {most:g}, and floats says {low:g} to {high:g}: give the range that they have, "
                "or undo what normalised them"
            )
        return (value.float() - low) * (2.0 / (high - low)) - 1.0
