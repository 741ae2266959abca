"""A folder of pictures of any kind as one uint8 array: what is in it, what size and colour, what could not be read."""

import math
import os
import tempfile
import warnings
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from reverie.core.errors import InputError, RunError
from reverie.core.progress import track
from reverie.data import pixels
from reverie.data.images import Skipped
from reverie.data.split import held_out

FORMATS = "avif bmp gif jfif jp2 jpeg jpg pbm pgm png pnm ppm tga tif tiff webp"
SUFFIXES = frozenset(f".{name}" for name in FORMATS.split())
"""Endings of the files that are tried: what Pillow decodes by itself."""
IN_MEMORY = 256 * 2**20
"""Bytes of decoded pictures up to which they stay in memory; more are memory-mapped from a file."""
LARGEST_INFERRED = 256
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError, OverflowError, EOFError)


class Header(NamedTuple):
    """A picture as its header describes it: path relative to the folder, sides in pixels, grey or not."""

    path: str
    width: int
    height: int
    grey: bool


def read(root: Path, size: int | None, channels: int | None, fit: pixels.Fit) -> dict[str, Any]:
    """Everything `ImageSet` needs to know of a folder, for all splits.

    Raises InputError if the folder holds no readable picture, or pictures both beside and inside class folders.
    """
    files = sorted(_files(root))
    candidates = [path for path in files if Path(path).suffix.lower() in SUFFIXES]
    skipped = [Skipped(path, "not a picture format") for path in sorted({*files} - {*candidates})]
    if not candidates:
        raise InputError(
            f"no pictures in {root.absolute()}: looked in it and its sub-folders for {FORMATS.replace(' ', ', ')}, "
            f"and found {len(files)} other files."
        )
    headers = []
    for path in track(candidates, "looking at pictures", len(candidates), "pictures"):
        try:
            with warnings.catch_warnings(action="ignore"), Image.open(root / path) as image:
                headers.append(Header(path, *image.size, grey=pixels.grey_header(image)))
        except UNREADABLE as error:
            skipped.append(Skipped(path, _reason(error)))
    notes = []
    if size is None and headers:
        size, note = infer_size(headers)
        notes.append(note)
    every_grey = all(header.grey for header in headers)
    stamp = tuple((h.path, (stat := (root / h.path).stat()).st_size, stat.st_mtime_ns) for h in headers)
    store, kept, broken, coloured = _decode(
        root.absolute(), stamp, size or 1, channels or (1 if every_grey else 3), fit
    )
    skipped = sorted([*skipped, *broken])
    if not kept:
        raise InputError(
            f"none of the {len(candidates)} pictures in {root.absolute()} could be read; "
            f"the first: {skipped[0].path}: {skipped[0].reason}."
        )
    if channels is None and not coloured:
        store = store[:, :1]
    failed = {item.path for item in broken}
    enlarged = sum(_scale(header, size or 1, fit) > 1 for header in headers if header.path not in failed)
    if enlarged:
        notes.append(f"{enlarged} of {len(kept)} pictures are smaller than {size} pixels and were enlarged.")
    if skipped:
        first = "; ".join(f"{item.path}: {item.reason}" for item in skipped[:3])
        notes.append(f"{len(skipped)} of {len(files)} files skipped ({first}{'; …' if len(skipped) > 3 else ''}).")
    labels, classes = label(root, kept)
    return {
        "store": store,
        "labels": labels,
        "held_out": np.array([held_out(path) for path in kept]),
        "classes": classes,
        "columns": {"path": kept},
        "skipped": skipped,
        "notes": notes,
    }


def label(root: Path, paths: list[str]) -> tuple[np.ndarray | None, list[str]]:
    """Labels from the first sub-folder of each path; none if all pictures lie directly in the folder."""
    inside = [path for path in paths if "/" in path]
    if not inside:
        return None, []
    if len(inside) < len(paths):
        loose = next(path for path in paths if "/" not in path)
        raise InputError(
            f"{root.absolute()} holds {len(inside)} pictures in sub-folders (classes) and {len(paths) - len(inside)} "
            f"beside them, such as {loose}; move these into a class folder or out of the data set."
        )
    first = [path.split("/", 1)[0] for path in paths]
    classes = sorted(set(first))
    return np.array([classes.index(name) for name in first]), classes


def infer_size(headers: list[Header]) -> tuple[int, str]:
    """The common side if all pictures are squares of one size, otherwise the largest power of two not above the median
    short side, between 8 and 256; with a sentence that says so."""
    sides = {(header.width, header.height) for header in headers}
    if len(sides) == 1 and len(set(next(iter(sides)))) == 1:
        side = headers[0].width
        return side, f"size {side}: all pictures are {side}x{side}."
    median = int(np.median([min(header.width, header.height) for header in headers]))
    size = 2 ** int(np.log2(min(max(median, 8), LARGEST_INFERRED)))
    return size, (
        f"size {size}: the largest power of two, up to {LARGEST_INFERRED}, not above the median short side of {median} "
        "pixels; give size to choose another."
    )


@lru_cache(maxsize=2)
def _decode(
    root: Path, stamp: tuple[tuple[str, int, int], ...], size: int, channels: int, fit: pixels.Fit
) -> tuple[torch.Tensor, list[str], list[Skipped], bool]:
    """Decode the files of `stamp` (path, bytes, modification time: what the cache is keyed by).

    Returns the store (M, channels, size, size), the paths of its rows, the files that failed, and whether any picture
    has colour.
    """
    shape = (len(stamp), channels, size, size)
    if math.prod(shape) <= IN_MEMORY:
        array = np.empty(shape, np.uint8)
    else:
        array = _on_disk(shape)
    kept, broken, coloured = [], [], False
    for path, _, _ in track(stamp, "decoding pictures", len(stamp), "pictures"):
        try:
            with warnings.catch_warnings(action="ignore"):
                picture = pixels.read(root / path, size, channels, fit)
        except UNREADABLE as error:
            broken.append(Skipped(path, _reason(error)))
            continue
        array[len(kept)] = picture
        coloured = coloured or (channels == 3 and bool((picture != picture[:1]).any()))
        kept.append(path)
    return torch.from_numpy(array[: len(kept)]), kept, broken, coloured


def _on_disk(shape: tuple[int, ...]) -> np.ndarray:
    """A memory-mapped array in a nameless temporary file, its space reserved so that a full disk is an error here."""
    with tempfile.TemporaryFile() as file:
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, math.prod(shape))
            return np.memmap(file, np.uint8, mode="w+", shape=shape)
        except OSError as error:
            raise RunError(
                f"the decoded pictures need {math.prod(shape) / 2**30:.1f} GB in {tempfile.gettempdir()}, which has no "
                f"room for them ({error.strerror}); choose a smaller size, or point TMPDIR at another disk."
            ) from error


def _files(root: Path) -> Iterator[str]:
    """Paths of all files below `root`, relative to it with forward slashes; hidden ones apart, links followed."""
    seen = set()
    for folder, inner, files in os.walk(root, followlinks=True):
        seen.add(os.path.realpath(folder))
        inner[:] = [name for name in inner if name[0] != "." and os.path.realpath(f"{folder}/{name}") not in seen]
        for name in files:
            if name[0] != ".":
                yield (Path(folder) / name).relative_to(root).as_posix()


def _scale(header: Header, size: int, fit: pixels.Fit) -> float:
    """How much the picture grows (above 1) or shrinks along the side that `fit` goes by."""
    return size / (max if fit == "pad" else min)(header.width, header.height)


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
