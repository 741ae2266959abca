"""The pictures of a folder as one uint8 array, decoded by several threads and kept, so that a second start decodes nothing."""

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
import torch

from reverie.core import files, image_files
from reverie.core.errors import RunError
from reverie.core.image_files import Unreadable
from reverie.core.progress import track
from reverie.data import pixels, prefetch
from reverie.data.images import Skipped

IN_MEMORY = 256 * 2**20
"""Bytes of decoded pictures up to which they stay in memory; more are memory-mapped from a file."""
LARGEST_INFERRED = 256
KEPT_FROM = 1000
"""Pictures from which on what was decoded is kept in the cache."""
KEPT = 8
"""Folders that are kept, those used last."""
PICTURES, ABOUT = "pictures.bin", "about.json"
Stamps = tuple[tuple[str, int, int], ...]
"""Of each file its path relative to the folder, its bytes and its time of modification in ns."""


class Header(NamedTuple):
    """A picture as its header describes it: path relative to the folder, sides in pixels as they are stored, grey or not."""

    path: str
    width: int
    height: int
    grey: bool


class Decoded(NamedTuple):
    """What was decoded: the store (M, channels, height, width), the path and a digest of the file of each of its rows, the files that
    failed, and what was inferred, in sentences."""

    store: torch.Tensor
    paths: list[str]
    digests: list[str]
    broken: list[Skipped]
    notes: list[str]


@lru_cache(maxsize=2)
def decoded(
    root: Path, stamps: Stamps, size: pixels.Size | None, channels: int | None, fit: pixels.Fit, largest: int | None
) -> Decoded:
    """The files of ``stamps``; from the cache, where the same files were decoded so before.

    Args:
        root: absolute.
        stamps: of the files.
        size, channels, fit, largest: as of :func:`reverie.data.load`.
    """
    if len(stamps) < KEPT_FROM:
        return _decode(root, stamps, size, channels, fit, largest)
    about = [str(root), stamps, size, channels, fit, largest, PIL.__version__]
    place = prefetch.cache() / "decoded" / hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]
    if (found := _kept(place)) is not None:
        return found
    fresh = _decode(root, stamps, size, channels, fit, largest)
    with (
        suppress(RunError),
        files.appearing_folder(place) as folder,
    ):  # unless there is no room, or another process was first
        fresh.store.numpy().tofile(folder / PICTURES)
        files.write(folder / ABOUT, json.dumps({**fresh._asdict(), "store": list(fresh.store.shape)}))
    _forget(place.parent)
    return _kept(place) or fresh


def _kept(place: Path) -> Decoded | None:
    """What was kept, memory-mapped; None if it is not there or not whole."""
    try:
        said = json.loads((place / ABOUT).read_text(encoding="utf-8"))
        shape = tuple(said["store"])
        if (place / PICTURES).stat().st_size != math.prod(shape):
            return None
        store = torch.from_numpy(np.memmap(place / PICTURES, np.uint8, mode="c", shape=shape))
        os.utime(place)
    except (OSError, ValueError, KeyError):
        return None
    broken = [Skipped(*each) for each in said["broken"]]
    return Decoded(store, said["paths"], said["digests"], broken, said["notes"])


def _forget(place: Path) -> None:
    """Remove what was not used for longest; whoever has it mapped keeps it."""
    with suppress(OSError):
        every = [path for path in place.iterdir() if path.name[0] != "."]
        for old in sorted(every, key=lambda path: path.stat().st_mtime)[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)


def _decode(
    root: Path, stamps: Stamps, size: pixels.Size | None, channels: int | None, fit: pixels.Fit, largest: int | None
) -> Decoded:
    broken, notes = [], []
    headers: list[Header] = []

    def look(path: str) -> Header | Skipped:
        try:
            with image_files.opened(root / path) as image:
                return Header(path, *image.size, pixels.grey_header(image))
        except Unreadable as error:
            return Skipped(path, error.reason)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        paths = [path for path, *_ in stamps]
        for found in track(pool.map(look, paths), "looking at pictures", len(paths), "pictures"):
            (headers if isinstance(found, Header) else broken).append(found)  # pyright: ignore[reportArgumentType]
        if size is None and headers:
            size, note = infer_size(headers, largest)
            notes.append(note)
        sides = pixels.sides(size or 1)
        mode = channels or (1 if all(header.grey for header in headers) else 3)
        shape = (len(headers), mode, *sides)
        array = np.empty(shape, np.uint8) if math.prod(shape) <= IN_MEMORY else _on_disk(shape)

        def decode(row: int) -> tuple[str, bool, bool] | Skipped:
            path = headers[row].path
            try:
                image = image_files.open_image(root / path, "L" if mode == 1 else "RGB")
                array[row] = pixels.to_array(image, sides, mode, fit)
                coloured = mode == 3 and bool((array[row] != array[row, :1]).any())
                return files.sha256(root / path), coloured, pixels.enlarges(image.size, sides, fit)
            except (Unreadable, OSError) as error:
                return Skipped(path, error.reason if isinstance(error, Unreadable) else str(error))

        rows: list[int] = []
        digests, coloured, enlarged = [], False, 0
        each = track(pool.map(decode, range(len(headers))), "decoding pictures", len(headers), "pictures")
        for row, found in enumerate(each):
            if isinstance(found, Skipped):
                broken.append(found)
                continue
            if len(rows) < row:
                array[len(rows)] = array[row]
            rows.append(row)
            digests.append(found[0])
            coloured, enlarged = coloured or found[1], enlarged + found[2]
    store = torch.from_numpy(array[: len(rows)])
    if channels is None and not coloured:
        store = store[:, :1].contiguous()
    if enlarged:
        high, wide = sides
        than = f"{high}" if high == wide else f"{high} x {wide}"
        notes.append(f"{enlarged} of {len(rows)} pictures are smaller than {than} pixels and were enlarged.")
    return Decoded(store, [headers[row].path for row in rows], digests, broken, notes)


def infer_size(headers: Sequence[Header], largest: int | None) -> tuple[int, str]:
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
