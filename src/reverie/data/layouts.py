"""What lies where in pictures on the disk: maps of their pixels in a folder beside them, or boxes in a table, as the condition "image".

A folder of maps holds a file for each picture, of its name and its size: ``maps/fox.png`` for ``birds/fox.jpg``. In a grey one, or one with
a palette, the value of a pixel is the number of its class, 255 none (PNG; ``classes.txt`` beside them has the names, one a line); one of
colours is shown as it is. Tables are read by :mod:`reverie.data.boxed`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from reverie.core import image_files
from reverie.core.errors import InputError
from reverie.core.memory import afford
from reverie.core.text import shown
from reverie.data import boxed, pixels, stored
from reverie.data.folder import files_below, is_picture, stamp
from reverie.data.maps import NONE, Layout, Painted

NAMES = "classes.txt"
"""In a folder of maps: the names of their classes, one a line."""
TABLES = (".json", ".jsonl")


def read(where: Path, data: Path, paths: Sequence[str] | None, size: pixels.Size, fit: pixels.Fit) -> Layout:
    """What lies where in pictures on the disk.

    Args:
        where: the folder of maps, or the table of boxes.
        data: the folder or file of the pictures.
        paths: of the pictures, as they are called in it; None of those that are no files.
        size, fit: as the pictures are brought to, and maps with them.

    Raises:
        InputError: when there is no such folder or table, a picture is not in it, a map is of another size than its picture, or what it
            says is no class or no box.
    """
    if paths is None:
        raise InputError(f"maps are called as the pictures of a folder are, and those of {data} have no names of files")
    where = where.expanduser()
    if where.is_dir():
        if where.resolve().is_relative_to(data.expanduser().resolve()):
            raise InputError(f"the maps {shown(where)} lie among the pictures of {shown(data)}: move them beside that")
        return _painted(where, data, paths, pixels.sides(size), fit)
    if where.is_file() and where.suffix.lower() in TABLES:
        return boxed.read(where, data, paths, _sizes(data, paths), pixels.sides(size), fit)
    raise InputError(
        f"{shown(where)} is neither a folder of maps nor a table of boxes ({', '.join(TABLES)}): name one of them, or leave data.maps out"
    )


class Found(NamedTuple):
    """The maps of a folder: the number of each by its path without the ending, their values, their own (width, height), and the classes."""

    number: Mapping[str, int]
    values: Tensor
    sizes: Sequence[tuple[int, int]]
    classes: tuple[str, ...]


def _painted(folder: Path, data: Path, paths: Sequence[str], size: tuple[int, int], fit: pixels.Fit) -> Painted:
    every = sorted(files_below(folder))
    found = _found(folder, tuple((path, *stamp(folder / path)) for path in every), size, fit)
    rows = []
    for path, seen in zip(paths, _sizes(data, paths), strict=True):
        row = found.number.get(_stem(path))
        if row is None:
            raise InputError(
                f"there is no map of the picture {shown(path)} in {shown(folder)}: it is called {_stem(path)}.png"
            )
        if found.sizes[row] != seen:
            raise InputError(
                f"the map of {shown(path)} is {'x'.join(map(str, found.sizes[row]))} pixels, the picture {'x'.join(map(str, seen))}: "
                "draw it of the picture's size"
            )
        rows.append(row)
    return Painted(found.values, rows, found.classes)


@lru_cache(maxsize=2)
def _found(folder: Path, key: tuple[tuple[str, int, int], ...], size: tuple[int, int], fit: pixels.Fit) -> Found:
    """All maps of a folder whose files and their stamps are the key."""
    pictures = [path for path, *_ in key if is_picture(path)]
    if not pictures:
        raise InputError(f"there are no pictures in {shown(folder)}, which is to hold a map of each picture")
    afford(3 * len(pictures) * size[0] * size[1], f"{len(pictures)} maps", "choose a smaller data.size")
    values, sizes = [], []
    for path in pictures:
        value, its = _opened(folder / path, size, fit)
        if values and value.ndim != values[0].ndim:
            raise InputError(
                f"{shown(folder)} holds maps of classes (grey) and of colours: {shown(pictures[0])} and {shown(path)}; keep to one kind"
            )
        values.append(value)
        sizes.append(its)
    array, classes = np.stack(values), ()
    if array.ndim == 3:
        there = array[array != NONE]
        count = int(there.max()) + 1 if len(there) else 1
        classes = _names(folder, count)
        if count > len(classes):
            wrong = next(path for path, value in zip(pictures, array, strict=True) if (value == count - 1).any())
            raise InputError(
                f"{shown(wrong)} has pixels of the class {count - 1}, {shown(folder / NAMES)} names {len(classes)}, 0 to "
                f"{len(classes) - 1}; {NONE} is none"
            )
    return Found({_stem(path): i for i, path in enumerate(pictures)}, torch.from_numpy(array), sizes, classes)


def _opened(path: Path, size: tuple[int, int], fit: pixels.Fit) -> tuple[np.ndarray, tuple[int, int]]:
    """A map as uint8, class numbers (H, W) or colours (3, H, W), and its own (width, height)."""
    image = image_files.open_image(path)
    if image.mode not in ("1", "P", *pixels.GREY_MODES) or image.mode in ("LA", "La"):
        return pixels.to_array(image, size, 3, fit), image.size
    if path.suffix.lower() in (".jpg", ".jpeg"):
        raise InputError(f"{shown(path)} is a map of classes, whose numbers JPEG changes: save it as PNG")
    labels = np.asarray(image).astype(np.int64)
    if labels.max() > NONE:
        raise InputError(
            f"{shown(path)} has pixels of the class {labels.max()}: classes are 0 to {NONE - 1}, {NONE} is none"
        )
    fitted = pixels.fit_to(Image.fromarray(labels.astype(np.uint8)), size, fit, Image.Resampling.NEAREST)
    return np.asarray(fitted), image.size


def _names(folder: Path, count: int) -> tuple[str, ...]:
    """The classes of a folder of maps, by their names if it says them."""
    if not (folder / NAMES).is_file():
        return tuple(map(str, range(count)))
    return tuple(filter(None, map(str.strip, boxed.text(folder / NAMES).splitlines())))


def single(path: Path, classes: Sequence[str], size: pixels.Size, fit: pixels.Fit) -> Tensor:
    """One map, (1, channels, H, W), for a model that learned from maps of these classes, or of colours if there are none.

    Raises:
        InputError: when it cannot be read, is of the other kind, or has a class that there is not.
    """
    value, _ = _opened(path.expanduser(), pixels.sides(size), fit)
    if (value.ndim == 3) == bool(classes):
        what = "classes, grey, a pixel the number of its class" if classes else "colours"
        raise InputError(f"the model is told maps of {what}: {shown(path)} is {'of colours' if classes else 'grey'}")
    if classes and (there := value[value != NONE]).size and there.max() >= len(classes):
        raise InputError(
            f"{shown(path)} has pixels of the class {there.max()}: the model knows 0 to {len(classes) - 1}, {', '.join(classes)}; "
            f"{NONE} is none"
        )
    return Painted(torch.from_numpy(value.copy())[None], [0], tuple(classes)).maps(torch.tensor([0]))


def _sizes(data: Path, paths: Sequence[str]) -> Iterator[tuple[int, int]]:
    """(width, height) of pictures, as they are seen."""
    records = stored.find(data.expanduser())
    number = {path: i for i, path in enumerate(records.paths)}
    for path in paths:
        with records.opened(number[path]) as image:
            yield image_files.seen_size(image)


def _stem(path: str) -> str:
    return str(PurePosixPath(path).with_suffix(""))
