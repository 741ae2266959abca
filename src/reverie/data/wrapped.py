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


class Items(Protocol):
    """A map-style data set, as torch calls it."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Any: ...


class Wrapped(Dataset):
    """A map-style data set of (picture, label) or of pictures alone, such as torch's users have.

    Args:
        items: pictures are Pillow images, uint8 tensors or arrays (C, H, W), or float tensors.
        classes: names of the classes, if items have labels.
        name: of the set.
        size: height and width, or the side of squares, for Pillow images; those of the first one by default.
        channels: 1 or 3, for Pillow images; those of the first one by default.
        fit: how Pillow images become one of that size.
        floats: the range of float tensors, which is brought to [−1, 1]: (0, 1) behind torchvision's ``ToTensor``.

    Raises:
        InputError: for an empty set, labels without ``classes`` and the other way round, or float tensors without a range.
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
        self.items, self.classes, self.name, self.floats = items, tuple(classes), name, floats
        self.fit: pixels.Fit = fit
        picture, label = self._parts(0)
        if (label is None) == bool(self.classes):
            raise InputError(
                f"items of {name} are {'pictures' if label is None else '(picture, label)'}: "
                "give the names of the classes if there are labels"
            )
        if isinstance(picture, Image.Image):
            size = size or (picture.height, picture.width)
            channels = channels or (1 if pixels.grey_header(picture) else 3)
        self.size, self.channels = size, channels
        self.shape = tuple(self._tensor(picture).shape)

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
        parts = [self._parts(int(i)) for i in positions]
        pictures = [self._tensor(picture) for picture, _ in parts]
        for position, picture in zip(positions, pictures, strict=True):
            if picture.shape != self.shape:
                raise InputError(
                    f"item {int(position)} of {self.name} has shape {tuple(picture.shape)}, the first {self.shape}"
                )
        labels = [int(label) for _, label in parts if label is not None]
        return Batch(torch.stack(pictures), Cond(label=labels) if self.classes else None)

    def _parts(self, index: int) -> tuple[Any, Any]:
        item = self.items[index]
        return (item[0], item[1] if len(item) > 1 else None) if isinstance(item, tuple | list) else (item, None)

    def _tensor(self, picture: Any) -> Tensor:
        if isinstance(picture, Image.Image):
            assert self.size is not None and self.channels is not None
            picture = pixels.to_array(picture, self.size, self.channels, self.fit)
        value = torch.from_numpy(np.array(picture)) if isinstance(picture, np.ndarray) else picture
        if not isinstance(value, Tensor):
            raise InputError(f"pictures of {self.name} are images, tensors or arrays: got {type(picture).__name__}")
        if value.dtype == torch.uint8:
            return value.float().div_(127.5).sub_(1.0)
        if self.floats is None:
            raise InputError(f"pictures of {self.name} are {value.dtype}: say their range, such as floats=(0, 1)")
        low, high = self.floats
        return (value.float() - low) * (2.0 / (high - low)) - 1.0
