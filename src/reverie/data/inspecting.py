"""What a data set on the disk holds, before anything is trained on it: kinds, sizes, classes, and pictures that are there twice.

Duplicates are exact where all pixels agree, whatever the files are. They are near where thumbnails of 16 x 16 pixels in colour differ by
less than :data:`NEAR` grey levels, as a root mean square: copies at another size or compression do, crops and mirror images do not.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from reverie.core import image_files
from reverie.core.errors import InputError
from reverie.core.image_files import Unreadable
from reverie.core.progress import track
from reverie.data import pixels, stored
from reverie.data.decoding import ahead
from reverie.data.records import Records, Skipped

NEAR = 4.0
SIDE = 16
ROWS = 256
PER_CLASS, MOST_CLASSES, SHOWN = 6, 10, 48
"""Of a contact sheet: pictures a class, classes, and pictures without classes, at most."""


class Looked(NamedTuple):
    """A picture: its position, format, mode, width and height as it is seen, a digest of its pixels, and a thumbnail (SIDE, SIDE, 3)."""

    position: int
    format: str
    mode: str
    size: tuple[int, int]
    digest: str
    thumbnail: np.ndarray


@dataclass(frozen=True)
class Inspected:
    """What was found.

    Args:
        records: the encoded pictures.
        kept: the positions of those that can be read.
        formats, modes, sizes: how many there are of each; sizes are (width, height).
        classes: pictures of each class, if there are any.
        exact, near: paths of pictures that are the same, and nearly so, a list a group.
        skipped: what is no picture or cannot be read, and why.
    """

    records: Records
    kept: list[int]
    formats: Counter[str]
    modes: Counter[str]
    sizes: Counter[tuple[int, int]]
    classes: dict[str, int]
    exact: list[list[str]]
    near: list[list[str]]
    skipped: list[Skipped]

    def sheet(self, side: int = 96) -> tuple[Tensor, int, list[str]]:
        """Some of the pictures as squares (N, 3, side, side) in [−1, 1], how many go in a row, and the names of the columns if these are
        classes."""
        labels, classes = self.records.labels(self.kept)
        if labels is None or len(classes) < 2:
            chosen = _spread(self.kept, SHOWN)
            columns, names = min(8, len(chosen)), []
        else:
            names = classes[:MOST_CLASSES]
            each = [[i for i, label in zip(self.kept, labels, strict=True) if label == n] for n in range(len(names))]
            each = [_spread(some, PER_CLASS) for some in each]
            chosen = [some[row % len(some)] for row in range(max(map(len, each))) for some in each]
            columns = len(names)
        pictures = [
            pixels.to_array(image_files.open_image(self.records.paths[i], "RGB", self.records.read(i)), side, 3, "pad")
            for i in chosen
        ]
        return torch.from_numpy(np.stack(pictures)).float().div(127.5).sub(1.0), columns, names


def inspect(path: Path) -> Inspected:
    """Look at every picture of a folder, archive or table.

    Raises:
        InputError: when there is none that can be read.
    """
    records = stored.find(path)
    seen: list[Looked] = []
    broken: list[Skipped] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        each = ahead(pool, lambda i: _looked(records, i), len(records))
        for found in track(each, "looking at pictures", len(records), "pictures"):
            (seen if isinstance(found, Looked) else broken).append(found)  # pyright: ignore[reportArgumentType]
    if not seen:
        raise InputError(f"none of the {len(records)} pictures in {records.root} could be read")
    kept = [look.position for look in seen]
    labels, classes = records.labels(kept)
    count = np.bincount(labels, minlength=len(classes)).tolist() if labels is not None else []
    groups: dict[str, list[int]] = {}
    for number, look in enumerate(seen):
        groups.setdefault(look.digest, []).append(number)
    firsts = [group[0] for group in groups.values()]
    near = similar(np.stack([seen[first].thumbnail for first in firsts]))

    def called(numbers: Sequence[int]) -> list[str]:
        return [records.paths[seen[number].position] for number in numbers]

    return Inspected(
        records,
        kept,
        Counter(look.format for look in seen),
        Counter(look.mode for look in seen),
        Counter(look.size for look in seen),
        dict(zip(classes, count, strict=True)),
        [called(group) for group in groups.values() if len(group) > 1],
        [called([firsts[i] for i in group]) for group in near],
        sorted([*records.skipped, *broken]),
    )


def _looked(records: Records, position: int) -> Looked | Skipped:
    path = records.paths[position]
    try:
        content = records.read(position)
        with image_files.opened(Path(path), content) as header:
            form, mode = header.format or "", header.mode
        image = image_files.open_image(path, "RGB", content)
    except (Unreadable, OSError) as error:
        return Skipped(path, error.reason if isinstance(error, Unreadable) else str(error))
    digest = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
    thumbnail = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    return Looked(position, form, mode, image.size, digest, thumbnail)


def similar(thumbnails: np.ndarray) -> list[list[int]]:
    """Groups of thumbnails (N, …) uint8, each within :data:`NEAR` of another of its group.

    Two thumbnails differ by no less than their means do, so only those of like means are compared, and all of these.
    """
    x = torch.from_numpy(thumbnails.reshape(len(thumbnails), -1)).float()
    means, order = x.mean(1).sort()
    x = x[order]
    group = list(range(len(x)))

    def root(i: int) -> int:
        while group[i] != i:
            group[i] = i = group[group[i]]
        return i

    for start in track(range(0, len(x), ROWS), "comparing pictures", -(-len(x) // ROWS), "batches"):
        some = x[start : start + ROWS]
        end = int(torch.searchsorted(means, means[start + len(some) - 1] + NEAR, right=True))
        distance = torch.cdist(some, x[start:end]) / x.shape[1] ** 0.5
        for a, b in (distance < NEAR).nonzero().tolist():
            group[root(start + b)] = root(start + a)
    found: dict[int, list[int]] = {}
    for i in range(len(x)):
        found.setdefault(root(i), []).append(int(order[i]))
    return sorted(sorted(members) for members in found.values() if len(members) > 1)


def _spread(positions: Sequence[int], count: int) -> list[int]:
    """At most so many of the positions, evenly spread over them."""
    return [positions[i * len(positions) // count] for i in range(count)] if len(positions) > count else list(positions)
