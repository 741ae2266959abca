"""Pictures as they lie on the disk, encoded and found by position: the files of a folder, the members of archives, the rows of tables."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from reverie.core import image_files
from reverie.core.errors import InputError


class Skipped(NamedTuple):
    """A file that was left out, by its path relative to the folder, and why."""

    path: str
    reason: str


class Records(ABC):
    """Encoded pictures by position, in the order of their paths.

    Args:
        root: the folder or file that was named, absolute.
        paths: of the records, by which they are called, sorted and held out.
        key: says which files they are of, so that it changes with them; JSON takes it.
        inner: the paths by whose first sub-folders records are classed.
        classes: of each record the name of its class, where it says so itself.
        skipped: what was there and is no record.
        held_out: whether each record is held out, where the files say so.
        scattered: any record is read as fast as the one after the last.
    """

    root: Path
    paths: Sequence[str]
    key: tuple[object, ...]
    inner: Sequence[str]
    classes: Sequence[str] | None = None
    skipped: Sequence[Skipped] = ()
    held_out: np.ndarray | None = None
    scattered: bool = True

    def __len__(self) -> int:
        return len(self.paths)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Records) and (self.root, self.key) == (other.root, other.key)

    def __hash__(self) -> int:
        return hash((self.root, self.key))

    @abstractmethod
    def read(self, i: int) -> bytes:
        """What record i holds.

        Raises:
            OSError: when it cannot be read.
        """

    @contextmanager
    def opened(self, i: int) -> Iterator[Image.Image]:
        """Record i as its header describes it, not decoded yet.

        Raises:
            Unreadable: as :func:`reverie.core.image_files.opened`.
        """
        with image_files.opened(Path(self.paths[i]), self.read(i)) as image:
            yield image

    def captions(self, kept: Sequence[int]) -> tuple[list[str] | None, set[str]]:
        """The caption of each of the records at these positions, "" where it has none, and the files that hold them; None where none has.

        Raises:
            InputError: for a file of captions that cannot be read.
        """
        return None, set()

    def labels(self, kept: Sequence[int]) -> tuple[np.ndarray | None, list[str]]:
        """The class of each of the records at these positions, and the names of the classes; None and none where there are no classes.

        Raises:
            InputError: for records both beside and inside class folders.
        """
        if self.classes is None:
            names = by_folder(self.root, [self.inner[i] for i in kept])
        else:
            names = [self.classes[i] for i in kept]
        if not names:
            return None, []
        classes = sorted(set(names), key=(int if all(name.isdecimal() for name in names) else str))
        number = {name: index for index, name in enumerate(classes)}
        return np.array([number[name] for name in names]), classes


def by_folder(root: Path, paths: Sequence[str]) -> list[str] | None:
    """The first sub-folder of each path; None if all lie directly in the folder.

    Raises:
        InputError: for paths of both kinds.
    """
    inside = [path for path in paths if "/" in path]
    if not inside:
        return None
    if len(inside) < len(paths):
        loose = next(path for path in paths if "/" not in path)
        raise InputError(
            f"{root} holds {len(inside)} pictures in sub-folders (classes) and {len(paths) - len(inside)} "
            f"beside them, such as {loose}; move these into a class folder or out of the data set."
        )
    return [path.split("/", 1)[0] for path in paths]
