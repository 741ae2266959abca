"""A folder of pictures of any kind as one uint8 array: what is in it, what size and colour, what could not be read."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from reverie.core import image_files
from reverie.core.errors import InputError
from reverie.core.text import shown
from reverie.data import captions, decoding, pixels
from reverie.data.images import Skipped
from reverie.data.split import hold_out


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
    stamps = tuple((path, *_stamp(root / path)) for path in candidates)
    known = decoding.decoded(root.absolute(), stamps, size, channels, fit, largest)
    kept, notes = known.paths, list(known.notes)
    texts, holding = captions.read(root, kept, every)
    skipped = sorted([*(item for item in skipped if item.path not in holding), *known.broken])
    if not kept:
        raise InputError(
            f"none of the {len(candidates)} pictures in {root.absolute()} could be read; "
            f"the first: {skipped[0].path}: {skipped[0].reason}."
        )
    if skipped:
        first = "; ".join(f"{item.path}: {item.reason}" for item in skipped[:3])
        notes.append(f"{len(skipped)} of {len(every)} files skipped ({first}{'; …' if len(skipped) > 3 else ''}).")
    labels, classes = label(root, kept)
    return {
        "store": known.store,
        "labels": labels,
        "held_out": hold_out(kept, labels),
        "classes": classes,
        "columns": {"path": kept} if texts is None else {"path": kept, "caption": texts},
        "text": None if texts is None else "caption",
        "digests": known.digests,
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


def _stamp(path: Path) -> tuple[int, int]:
    """Bytes and time of modification of a file; decoding says why there are none."""
    try:
        found = path.stat()
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


def _files(root: Path) -> Iterator[str]:
    """Paths of all files below `root`, relative to it with forward slashes; hidden ones apart, links followed."""
    seen = set()
    for folder, inner, names in os.walk(root, followlinks=True):
        seen.add(os.path.realpath(folder))
        inner[:] = [name for name in inner if name[0] != "." and os.path.realpath(f"{folder}/{name}") not in seen]
        for name in names:
            if name[0] != ".":
                yield (Path(folder) / name).relative_to(root).as_posix()
