"""Pictures on the disk as one uint8 array, decoded by several threads and kept, so that a second start decodes nothing.

Of more than :data:`ON_DEMAND` bytes it is kept what they are, and each is decoded when it is asked for.
"""

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from shlex import quote
from typing import NamedTuple, TypeVar

import numpy as np
import PIL
import torch

from reverie.core import files, image_files
from reverie.core.errors import InputError, RunError
from reverie.core.image_files import Unreadable
from reverie.core.progress import track
from reverie.data import keeping, pixels
from reverie.data.demand import OnDemand
from reverie.data.records import Records, Skipped

T = TypeVar("T")
AHEAD = 4096
"""Pictures that threads look at before the first of them is taken."""
IN_MEMORY = 256 * 2**20
"""Bytes of decoded pictures up to which they stay in memory; more are memory-mapped from a file."""
ON_DEMAND = 8 * 2**30
"""Bytes of decoded pictures up to which they are decoded once and for all."""
LARGEST_INFERRED = 256
PICTURES, ABOUT = "pictures.bin", "about.json"


class Header(NamedTuple):
    """A picture as its header describes it: its position, sides in pixels as they are stored, grey or not."""

    position: int
    width: int
    height: int
    grey: bool


class Decoded(NamedTuple):
    """What was decoded: the store (M, channels, height, width), of each of its rows the position and a digest of the record, the records
    that failed, and what was inferred, in sentences."""

    store: torch.Tensor | OnDemand
    kept: list[int]
    digests: list[str]
    broken: list[Skipped]
    notes: list[str]


@lru_cache(maxsize=2)
def decoded(
    records: Records, size: pixels.Size | None, channels: int | None, fit: pixels.Fit, largest: int | None
) -> Decoded:
    """The pictures of the records; from the cache, where the same were decoded so before.

    Args:
        records: the encoded pictures.
        size, channels, fit, largest: as of :func:`reverie.data.load`.

    Raises:
        InputError: for more than :data:`ON_DEMAND` bytes of pictures that cannot be read one by one.
    """
    if len(records) < keeping.KEPT_FROM:
        return _decode(records, size, channels, fit, largest)
    about = [str(records.root), records.key, size, channels, fit, largest, ON_DEMAND, PIL.__version__]
    place = keeping.place("decoded", about)
    if (found := _kept(place, records, fit)) is not None:
        return found
    fresh = _decode(records, size, channels, fit, largest)
    said = {**fresh._asdict(), "store": list(fresh.store.shape)}
    if isinstance(fresh.store, OnDemand):
        said["mode"] = fresh.store.mode
    with (
        suppress(RunError),
        files.appearing_folder(place) as folder,
    ):  # unless there is no room, or another process was first
        if not isinstance(fresh.store, OnDemand):
            fresh.store.numpy().tofile(folder / PICTURES)
        files.write(folder / ABOUT, json.dumps(said))
    keeping.forget(place.parent)
    return _kept(place, records, fit) or fresh


def _kept(place: Path, records: Records, fit: pixels.Fit) -> Decoded | None:
    """What was kept, memory-mapped; None if it is not there or not whole."""
    try:
        said = json.loads((place / ABOUT).read_text(encoding="utf-8"))
        shape = tuple(said["store"])
        if "mode" in said:
            store = OnDemand(records, said["kept"], shape, said["mode"], fit)
        elif (place / PICTURES).stat().st_size != math.prod(shape):
            return None
        else:
            store = torch.from_numpy(np.memmap(place / PICTURES, np.uint8, mode="c", shape=shape))
        os.utime(place)
        broken = [Skipped(*each) for each in said["broken"]]
        return Decoded(store, said["kept"], said["digests"], broken, said["notes"])
    except (OSError, ValueError, KeyError):
        return None


def _decode(
    records: Records, size: pixels.Size | None, channels: int | None, fit: pixels.Fit, largest: int | None
) -> Decoded:
    broken, notes = [], []
    headers: list[Header] = []

    def look(position: int) -> Header | Skipped:
        try:
            with records.opened(position) as image:
                return Header(position, *image.size, pixels.grey_header(image))
        except (Unreadable, OSError) as error:
            return _failed(records, position, error)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for found in track(ahead(pool, look, len(records)), "looking at pictures", len(records), "pictures"):
            (headers if isinstance(found, Header) else broken).append(found)  # pyright: ignore[reportArgumentType]
        if size is None and headers:
            size, note = infer_size(headers, largest)
            notes.append(note)
        sides = pixels.sides(size or 1)
        mode = channels or (1 if all(header.grey for header in headers) else 3)
        shape = (len(headers), mode, *sides)
        array = _room(shape, records)

        def decode(row: int) -> tuple[str, bool, bool] | Skipped:
            position = headers[row].position
            try:
                content = records.read(position)
                image = image_files.open_image(records.paths[position], "L" if mode == 1 else "RGB", content)
                picture = pixels.to_array(image, sides, mode, fit)
            except (Unreadable, OSError) as error:
                return _failed(records, position, error)
            if array is not None:
                array[row] = picture
            coloured = mode == 3 and bool((picture != picture[:1]).any())
            return hashlib.sha256(content).hexdigest(), coloured, pixels.enlarges(image.size, sides, fit)

        rows: list[int] = []
        digests, coloured, enlarged = [], False, 0
        each = track(ahead(pool, decode, len(headers)), "decoding pictures", len(headers), "pictures")
        for row, found in enumerate(each):
            if isinstance(found, Skipped):
                broken.append(found)
                continue
            if array is not None and len(rows) < row:
                array[len(rows)] = array[row]
            rows.append(row)
            digests.append(found[0])
            coloured, enlarged = coloured or found[1], enlarged + found[2]
    taken = mode if channels is not None or coloured else 1
    kept = [headers[row].position for row in rows]
    if array is None:
        store = OnDemand(records, kept, (len(rows), taken, *sides), mode, fit)
        notes.append(
            f"{math.prod(store.shape) / 2**30:.0f} GB of pictures are decoded as they are needed: --train.workers 2 reads ahead."
        )
    else:
        store = torch.from_numpy(array[: len(rows)])
        store = store if taken == mode else store[:, :1].contiguous()
    if enlarged:
        high, wide = sides
        than = f"{high}" if high == wide else f"{high} x {wide}"
        notes.append(f"{enlarged} of {len(rows)} pictures are smaller than {than} pixels and were enlarged.")
    return Decoded(store, kept, digests, broken, notes)


def ahead(pool: ThreadPoolExecutor, work: Callable[[int], T], count: int, most: int = AHEAD) -> Iterator[T]:
    """``work(0), work(1), …`` in order, at most so many of them ahead of what is taken."""
    for start in range(0, count, most):
        yield from pool.map(work, range(start, min(start + most, count)))


def _failed(records: Records, position: int, error: Exception) -> Skipped:
    return Skipped(records.paths[position], error.reason if isinstance(error, Unreadable) else str(error))


def _room(shape: tuple[int, ...], records: Records) -> np.ndarray | None:
    """Where pictures are decoded to: memory, or the disk; None for more than either is to hold."""
    count = math.prod(shape)
    if count > ON_DEMAND:
        if not records.scattered:
            raise InputError(
                f"{records.root} holds {count / 2**30:.0f} GB of decoded pictures, which a table does not give one by one: make shards "
                f"of it, reverie data pack {quote(str(records.root))} OUT, and train on those."
            )
        return None
    return np.empty(shape, np.uint8) if count <= IN_MEMORY else _on_disk(shape)


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
