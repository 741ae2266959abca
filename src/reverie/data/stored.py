"""Pictures on the disk by one name: a folder, a zip file, shards of tar files, tables of Parquet or Arrow; what is in them, and what could
not be read."""

from pathlib import Path
from typing import Any

from reverie.core import image_files
from reverie.core.errors import InputError
from reverie.core.text import shown
from reverie.data import archives, decoding, pixels, tables
from reverie.data.archives import Members
from reverie.data.folder import Files, files_below, is_picture
from reverie.data.records import Records
from reverie.data.split import hold_out
from reverie.data.tables import Rows

ENDINGS = (*archives.ENDINGS, *tables.ENDINGS)
"""Of single files that hold pictures."""


def title(path: Path) -> str:
    """What a data set on the disk is called: the name of its folder, or of its file without the ending."""
    return path.stem if path.suffix.lower() in ENDINGS else path.name


def find(path: Path) -> Records:
    """The encoded pictures of a folder or file; a folder holds pictures, or archives, or tables; a file may be one picture.

    Raises:
        InputError: when there are none.
    """
    root = path.absolute()
    if path.is_file() and is_picture(path.name):
        return Files(root.parent, [root.name])
    if path.is_file():
        return (Members if path.suffix.lower() in archives.ENDINGS else Rows)(root, [root.name])
    if path.resolve() == path.resolve().parent:
        raise InputError(f"{path} is the whole disk: name the folder of the pictures to learn from.")
    every = list(files_below(root))
    if any(map(is_picture, every)):
        return Files(root, every)
    for kind, endings in ((Members, archives.ENDINGS), (Rows, tables.ENDINGS)):
        if some := [name for name in every if name.lower().endswith(endings)]:
            return kind(root, some)
    raise InputError(
        f"no pictures in {root}: looked in it and its sub-folders for "
        f"files in the formats {', '.join(image_files.FORMATS)}, for archives and tables ({', '.join(ENDINGS)}), "
        f"and found {len(every)} others."
    )


def load_stored(
    path: Path, size: pixels.Size | None, channels: int | None, fit: pixels.Fit, largest: int | None
) -> dict[str, Any]:
    """Everything `ImageSet` needs to know of pictures on the disk, for all splits.

    Raises:
        InputError: when none can be read, or there are pictures both beside and inside class folders.
    """
    records = find(path)
    if not records.paths:
        raise InputError(f"no pictures in {records.root}: it holds {len(records.skipped)} other files.")
    known = decoding.decoded(records, size, channels, fit, largest)
    texts, holding = records.captions(known.kept)
    skipped = sorted([*(item for item in records.skipped if item.path not in holding), *known.broken])
    notes = list(known.notes)
    if not known.kept:
        raise InputError(
            f"none of the {len(records)} pictures in {records.root} could be read; "
            f"the first: {known.broken[0].path}: {known.broken[0].reason}."
        )
    if skipped:
        first = "; ".join(f"{item.path}: {item.reason}" for item in skipped[:3])
        total = len(records) + len(records.skipped)
        notes.append(f"{len(skipped)} of {total} files skipped ({first}{'; …' if len(skipped) > 3 else ''}).")
    labels, classes = records.labels(known.kept)
    paths = [records.paths[i] for i in known.kept]
    return {
        "store": known.store,
        "labels": labels,
        "held_out": hold_out(paths, labels) if records.held_out is None else records.held_out[known.kept],
        "classes": classes,
        "columns": {"path": paths} if texts is None else {"path": paths, "caption": texts},
        "text": None if texts is None else "caption",
        "digests": known.digests,
        "skipped": skipped,
        "notes": [shown(note) for note in notes],
    }
