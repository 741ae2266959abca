"""Data sets of Python's: anything that yields (picture, label), pictures alone, or rows by name, as users of torch and datasets have."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from reverie.core.errors import InputError
from reverie.data import captions, tables

KEPT = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
"""Modes of Pillow that a PNG keeps."""


class Item(NamedTuple):
    """A picture as it came, its label and what it is called, if it says so."""

    picture: Any
    label: Any = None
    caption: str | None = None


class Sample(NamedTuple):
    """A picture to be packed: its path, what its file holds or itself, its class as ``.cls`` says it, number or name, and its caption."""

    path: str
    content: bytes | Image.Image
    label: str | None = None
    caption: str | None = None


def parted(item: Any) -> Item:
    """What an item consists of: (picture, label), a picture, or a row with a picture, perhaps a label and a caption."""
    if isinstance(item, Mapping) and not _encoded(item):
        picture = next((value for value in item.values() if _pictured(value)), None)
        label = next((item[key] for key in tables.LABELS if key in item), None)
        return Item(picture, label, captions.given(item))
    if isinstance(item, tuple | list):
        return Item(item[0], item[1] if len(item) > 1 else None)
    return Item(item)


def names(items: Any) -> list[str]:
    """The classes that a data set names: ``classes`` of torchvision's, the ``ClassLabel`` of Hugging Face's; none where it names none."""
    if (said := getattr(items, "classes", None)) is not None:
        return [str(name) for name in said]
    features = getattr(items, "features", None) or {}
    return next((list(features[key].names) for key in tables.LABELS if hasattr(features.get(key), "names")), [])


def samples(items: Iterable[Any], name: str, folder: str = "") -> Iterator[Sample]:
    """The items in their order, to be packed.

    Args:
        items: pictures are Pillow images, what a picture's file holds, or uint8 tensors or arrays (1 or 3, H, W) or (H, W).
        name: of the data, for messages.
        folder: before their paths.

    Raises:
        InputError: for what is no picture or no label, naming the item.
    """
    known = names(items)
    for number, item in enumerate(_each(items)):
        picture, label, caption = parted(item)
        called = f"item {number:,} of {name}"
        yield Sample(f"{folder}{number:09d}", _content(picture, called), _class(label, known, called), caption)


def checked(picture: Any, called: str) -> Tensor:
    """A tensor or array as uint8 (1 or 3, H, W).

    Raises:
        InputError: for another type, dtype or shape.
    """
    value = torch.from_numpy(np.array(picture)) if isinstance(picture, np.ndarray) else picture
    if not isinstance(value, Tensor):
        raise InputError(
            f"{called} is no picture (an image of Pillow, a tensor, an array): got {type(picture).__name__}"
        )
    value = value[None] if value.ndim == 2 else value
    if value.ndim != 3 or value.shape[0] not in (1, 3):
        turned = ": move the channels to the front" if value.ndim == 3 and value.shape[2] in (1, 3) else ""
        raise InputError(f"{called} is a picture of (1 or 3 channels, height, width): got {tuple(value.shape)}{turned}")
    if value.dtype != torch.uint8:
        floats = (
            "; say which values are black and white, Wrapped(items, floats=(0, 1))" if value.is_floating_point() else ""
        )
        raise InputError(f"{called} has values of 0 to 255 as uint8: got {value.dtype}{floats}")
    return value


def _each(items: Any) -> Iterator[Any]:
    """All items; of what has a length those at its positions, for not everything with one ends when it is iterated."""
    if hasattr(items, "__len__") and hasattr(items, "__getitem__"):
        return (items[i] for i in range(len(items)))
    return iter(items)


def _encoded(value: Any) -> bool:
    """Whether it is what a picture's file holds, as it is or as Hugging Face's datasets have it undecoded."""
    return isinstance(value, bytes) or (isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes))


def _pictured(value: Any) -> bool:
    return _encoded(value) or isinstance(value, Image.Image) or getattr(value, "ndim", 0) > 1


def _content(picture: Any, called: str) -> bytes | Image.Image:
    if isinstance(picture, Image.Image):
        return picture if picture.mode in KEPT else picture.convert("RGB")
    if _encoded(picture):
        return picture if isinstance(picture, bytes) else picture["bytes"]
    value = checked(picture, called)
    return Image.fromarray(value.cpu().permute(1, 2, 0).squeeze(2).numpy())


def _class(label: Any, known: Sequence[str], called: str) -> str | None:
    if label is None or isinstance(label, str):
        return label
    value = label.tolist() if isinstance(label, Tensor | np.ndarray | np.generic) else label
    if known and value == -1:  # as datasets say that it is not known
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0 or (known and value >= len(known)):
        most = f"from 0 to {len(known) - 1}" if known else "0 or more"
        raise InputError(f"the label of {called} is the number of its class, {most}, or its name: got {label!r}")
    return str(value)
