"""The pictures of a folder, each a file."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from reverie.core import image_files
from reverie.data import captions
from reverie.data.records import Records, Skipped
from reverie.data.split import by_split


class Files(Records):
    """Files below a folder, by their path relative to it.

    Args:
        root: absolute.
        every: paths of all its files.
    """

    def __init__(self, root: Path, every: Sequence[str]) -> None:
        self.root, self.every, self.paths = root, every, sorted(filter(is_picture, every))
        self.inner, self.held_out = by_split(self.paths)
        self.key = tuple((path, *stamp(f"{root}/{path}")) for path in self.paths)
        self.skipped = [Skipped(path, "not a picture format") for path in sorted({*every} - {*self.paths})]

    def read(self, i: int) -> bytes:
        return (self.root / self.paths[i]).read_bytes()

    @contextmanager
    def opened(self, i: int) -> Iterator[Image.Image]:
        with image_files.opened(self.root / self.paths[i]) as image:
            yield image

    def captions(self, kept: Sequence[int]) -> tuple[list[str] | None, set[str]]:
        return captions.read(
            lambda file: (self.root / file).read_bytes(), self.root, [self.paths[i] for i in kept], sorted(self.every)
        )


def is_picture(path: str) -> bool:
    """Whether a name ends as those of pictures do."""
    return os.path.splitext(path)[1].lower() in image_files.suffixes()


def stamp(path: str | Path) -> tuple[int, int]:
    """Bytes and time of modification of a file, in ns; decoding says why there are none."""
    try:
        found = os.stat(path)
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


def files_below(root: Path) -> Iterator[str]:
    """Paths of all files below ``root``, relative to it with forward slashes; hidden ones apart, links followed."""
    seen = set()
    for folder, inner, names in os.walk(root, followlinks=True):
        seen.add(os.path.realpath(folder))
        inner[:] = [name for name in inner if name[0] != "." and os.path.realpath(f"{folder}/{name}") not in seen]
        below = Path(folder).relative_to(root).as_posix()
        for name in names:
            if name[0] != ".":
                yield name if below == "." else f"{below}/{name}"
