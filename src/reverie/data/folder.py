"""A folder of pictures of any kind as one uint8 array: what is in it, what size and colour, what could not be read."""

import math
import os
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from reverie.core import files, image_files
from reverie.core.errors import InputError, RunError
from reverie.core.image_files import Unreadable
from reverie.core.progress import track
from reverie.core.text import shown
from reverie.data import pixels
from reverie.data.images import Skipped
from reverie.data.split import hold_out

IN_MEMORY = 256 * 2**20
"""Bytes of decoded pictures up to which they stay in memory; more are memory-mapped from a file."""
LARGEST_INFERRED = 256


class Header(NamedTuple):
    """A picture as its header describes it: path relative to the folder, sides in pixels as they are stored, grey or
    not; and the bytes and the modification time of its file."""

    path: str
    width: int
    height: int
    grey: bool
    stamp: tuple[int, int]


class Decoded(NamedTuple):
    """What was decoded: the store (M, channels, height, width), the path and a digest of the file of each of its rows,
    the files that failed, whether any picture has colour, how many were enlarged."""

    store: torch.Tensor
    paths: list[str]
    digests: list[str]
    broken: list[Skipped]
    coloured: bool
    enlarged: int


def load_folder(
    root: Path, size: pixels.Size | None, channels: int | None, fit: pixels.Fit, largest: int | None
) -> dict[str, Any]:
    """Everything `ImageSet` needs to know of a folder, for all splits.

    Raises InputError if the folder holds no readable picture, or pictures both beside and inside class folders.
    """
    if root.resolve() == root.resolve().parent:
        raise InputError(f"{root} is the whole disk: name the folder of the pictures to learn from.")
    every = sorted(_files(root))
    candidates = [path for path in every if Path(path).suffix.lower() in image_files.suffixes()]
    skipped = [Skipped(path, "not a picture format") for path in sorted({*every} - {*candidates})]
    if not candidates:
        raise InputError(
            f"no pictures in {root.absolute()}: looked in it and its sub-folders for "
            f"files in the formats {', '.join(image_files.FORMATS)}, and found {len(every)} others."
        )
    headers = []
    for path in track(candidates, "looking at pictures", len(candidates), "pictures"):
        try:
            with image_files.opened(root / path) as image:
                stat = (root / path).stat()
                headers.append(Header(path, *image.size, pixels.grey_header(image), (stat.st_size, stat.st_mtime_ns)))
        except Unreadable as error:
            skipped.append(Skipped(path, error.reason))
    notes = []
    if size is None and headers:
        size, note = infer_size(headers, largest)
        notes.append(note)
    every_grey = all(header.grey for header in headers)
    decoded = _decode(
        root.absolute(),
        tuple((header.path, header.stamp) for header in headers),
        pixels.sides(size or 1),
        channels or (1 if every_grey else 3),
        fit,
    )
    skipped = sorted([*skipped, *decoded.broken])
    kept, store = decoded.paths, decoded.store
    if not kept:
        raise InputError(
            f"none of the {len(candidates)} pictures in {root.absolute()} could be read; "
            f"the first: {skipped[0].path}: {skipped[0].reason}."
        )
    if channels is None and not decoded.coloured:
        store = store[:, :1]
    if decoded.enlarged:
        high, wide = store.shape[2:]
        than = f"{high}" if high == wide else f"{high} x {wide}"
        notes.append(f"{decoded.enlarged} of {len(kept)} pictures are smaller than {than} pixels and were enlarged.")
    if skipped:
        first = "; ".join(f"{item.path}: {item.reason}" for item in skipped[:3])
        notes.append(f"{len(skipped)} of {len(every)} files skipped ({first}{'; …' if len(skipped) > 3 else ''}).")
    labels, classes = label(root, kept)
    return {
        "store": store,
        "labels": labels,
        "held_out": hold_out(kept, labels),
        "classes": classes,
        "columns": {"path": kept},
        "digests": decoded.digests,
        "skipped": skipped,
        "notes": [shown(note) for note in notes],
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


def infer_size(headers: list[Header], largest: int | None) -> tuple[int, str]:
    """The common side if all pictures are squares of one size (up to ``largest``), otherwise the largest power of two not above ``largest``
    (256) or the median short side, at least 8; with a sentence that says so."""
    sides = {(header.width, header.height) for header in headers}
    side = headers[0].width
    if len(sides) == 1 and len(set(next(iter(sides)))) == 1 and (largest is None or side <= largest):
        return side, f"size {side}: all pictures are {side}x{side}."
    most = largest or LARGEST_INFERRED
    median = int(np.median([min(header.width, header.height) for header in headers]))
    size = 2 ** int(np.log2(min(max(median, 8), most)))
    return size, (
        f"size {size}: the largest power of two, up to {most}, not above the median short side of {median} "
        "pixels; give size to choose another."
    )


@lru_cache(maxsize=2)
def _decode(
    root: Path, stamps: tuple[tuple[str, tuple[int, int]], ...], size: tuple[int, int], channels: int, fit: pixels.Fit
) -> Decoded:
    """Decode the files of `stamps` (path, and bytes and modification time, which the cache is keyed by)."""
    shape = (len(stamps), channels, *size)
    if math.prod(shape) <= IN_MEMORY:
        array = np.empty(shape, np.uint8)
    else:
        array = _on_disk(shape)
    kept, digests, broken, coloured, enlarged = [], [], [], False, 0
    for path, _ in track(stamps, "decoding pictures", len(stamps), "pictures"):
        try:
            image = image_files.open_image(root / path, "L" if channels == 1 else "RGB")
            picture = pixels.to_array(image, size, channels, fit)
            digest = files.sha256(root / path)
        except (Unreadable, OSError) as error:
            broken.append(Skipped(path, error.reason if isinstance(error, Unreadable) else str(error)))
            continue
        array[len(kept)] = picture
        coloured = coloured or (channels == 3 and bool((picture != picture[:1]).any()))
        enlarged += pixels.enlarges(image.size, size, fit)
        kept.append(path)
        digests.append(digest)
    return Decoded(torch.from_numpy(array[: len(kept)]), kept, digests, broken, coloured, enlarged)


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
    for folder, inner, names in os.walk(root, followlinks=True):
        seen.add(os.path.realpath(folder))
        inner[:] = [name for name in inner if name[0] != "." and os.path.realpath(f"{folder}/{name}") not in seen]
        for name in names:
            if name[0] != ".":
                yield (Path(folder) / name).relative_to(root).as_posix()
