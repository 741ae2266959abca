"""Boxes in a table on the disk: JSON, ``{"fox.jpg": [["head", 0.1, 0.2, 0.5, 0.6]]}``, class, top, left, bottom and right in shares of the
picture's height and width; or lines of JSON with a ``file_name`` and either such ``boxes`` or, as Hugging Face's imagefolder has them,
``objects: {"bbox": [[x, y, width, height]], "categories": ["head"]}`` in pixels.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from reverie.core.errors import InputError, unknown
from reverie.core.text import shown
from reverie.data import pixels
from reverie.data.maps import Boxed, Place

CATEGORIES = ("categories", "category")
"""What Hugging Face's data sets call the classes of boxes."""


def read(
    table: Path,
    data: Path,
    paths: Sequence[str],
    sizes: Iterable[tuple[int, int]],
    size: tuple[int, int],
    fit: pixels.Fit,
) -> Boxed:
    """The boxes of pictures on the disk.

    Args:
        table: of the boxes.
        data: the folder or file of the pictures.
        paths: of the pictures, as they are called in it.
        sizes: of each its (width, height), as it is seen.
        size, fit: as the pictures are brought to, and boxes with them.

    Raises:
        InputError: for a table that is none, a picture that is not in it, or what is no box.
    """
    rows = dict(_rows(table, data))
    kinds = {kind for each in rows.values() for kind, _ in each.boxes}
    if len({isinstance(kind, str) for kind in kinds}) > 1:
        raise InputError(f"{shown(table)} calls some classes by names and some by numbers: keep to one")
    if not kinds:
        raise InputError(f"there are no boxes in {shown(table)}")
    numbered = not isinstance(next(iter(kinds)), str)
    names = tuple(map(str, range(int(max(kinds)) + 1))) if numbered else tuple(sorted(map(str, kinds)))  # pyright: ignore
    number = {name: i for i, name in enumerate(names)}
    places = []
    for path, seen in zip(paths, sizes, strict=True):
        if path not in rows:
            raise InputError(
                f"there are no boxes of the picture {shown(path)} in {shown(table)}: say [] for a picture without any"
            )
        row, own = rows[path], []
        for kind, box in row.boxes:
            if row.pixels:
                x, y, wide, high = (v / seen[i % 2] for i, v in enumerate(box))
                box = tuple(min(1.0, max(0.0, v)) for v in (y, x, y + high, x + wide))
            _check(box, f"the box {list(row.boxes[len(own)][1])} of {shown(path)} in {shown(table)}")
            own.append((number[str(kind)], *_fitted(box, seen, size, fit)))  # pyright: ignore[reportArgumentType]
        places.append([place for place in own if place[1] < place[3] and place[2] < place[4]])
    return Boxed(places, names, size)


class Row(NamedTuple):
    """The boxes of a picture, each with its class: (top, left, bottom, right) in shares, or (x, y, width, height) in pixels."""

    boxes: list[tuple[str | int, tuple[float, ...]]]
    pixels: bool = False


def _rows(table: Path, data: Path) -> Iterator[tuple[str, Row]]:
    """Paths and boxes of a table; a path is that from the folder of the table, as the data calls it."""
    inner, content = PurePosixPath(), text(table)
    if table.resolve().parent.is_relative_to(data.expanduser().resolve()):
        inner = PurePosixPath(table.resolve().parent.relative_to(data.expanduser().resolve()).as_posix())
    lines = [content] if table.suffix.lower() == ".json" else content.splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        at = f"line {number} of {shown(table)}" if len(lines) > 1 else shown(table)
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{at} is not JSON: {error}") from error
        if table.suffix.lower() == ".json":
            for path, boxes in row.items() if isinstance(row, dict) else [("", None)]:
                yield str(inner / path), _row({"boxes": boxes}, at)
        else:
            name = row.get("file_name") if isinstance(row, dict) else None
            if not isinstance(name, str):
                raise InputError(f"{at} names no picture: it is to have a file_name")
            yield str(inner / name), _row(row, at)


def _row(row: Any, at: str) -> Row:
    objects = row.get("objects") if isinstance(row, dict) else None
    if isinstance(objects, dict):
        kinds = next((objects[key] for key in CATEGORIES if key in objects), None)
        boxes = objects.get("bbox")
        if isinstance(kinds, list) and isinstance(boxes, list) and len(kinds) == len(boxes):
            row = {
                **row,
                "boxes": [[kind, *box] for kind, box in zip(kinds, boxes, strict=True) if isinstance(box, list)],
            }
            if len(row["boxes"]) < len(boxes):
                row = None
        else:
            row = None
    boxes = row.get("boxes") if isinstance(row, dict) else None
    if not isinstance(boxes, list) or not all(map(_is_box, boxes)):
        raise InputError(
            f'{at} has no boxes: a picture has [["head", top, left, bottom, right], …] in shares of its height and width, or '
            '"objects": {"bbox": [[x, y, width, height], …], "categories": ["head", …]} in pixels'
        )
    return Row([(kind, tuple(map(float, box))) for kind, *box in boxes], isinstance(objects, dict))


def _is_box(box: Any) -> bool:
    """Whether something read is a class and four numbers."""
    if not isinstance(box, list) or len(box) != 5 or isinstance(box[0], bool) or not isinstance(box[0], str | int):
        return False
    return (isinstance(box[0], str) or box[0] >= 0) and all(isinstance(v, int | float) for v in box[1:])


def place(word: str, classes: Sequence[str]) -> Place:
    """The box that ``CLASS:TOP,LEFT,BOTTOM,RIGHT`` says.

    Raises:
        InputError: for another form, a class that there is not, or a box that is empty or not inside the picture.
    """
    name, *box = phrase(word)
    if name not in classes:
        raise unknown("class", name, classes)
    return classes.index(name), box[0], box[1], box[2], box[3]


def phrase(word: str) -> tuple[str, float, float, float, float]:
    """The box that ``WORDS:TOP,LEFT,BOTTOM,RIGHT`` says, and its words.

    Raises:
        InputError: for another form, or a box that is empty or not inside the picture.
    """
    name, _, numbers = word.rpartition(":")
    return name, *corners(numbers, f"--box {word}", "CLASS:TOP,LEFT,BOTTOM,RIGHT, such as heart:0.1,0.1,0.6,0.6")


def corners(numbers: str, what: str, form: str) -> tuple[float, float, float, float]:
    """Top, left, bottom and right, with commas between, of a box inside a picture.

    Raises:
        InputError: for anything else.
    """
    try:
        box = tuple(map(float, numbers.split(",")))
    except ValueError:
        box = ()
    if len(box) != 4:
        raise InputError(f"{what} is to be {form}, in shares of the picture's height and width")
    _check(box, what)
    return box[0], box[1], box[2], box[3]


def _fitted(box: Sequence[float], image: tuple[int, int], size: tuple[int, int], fit: pixels.Fit) -> tuple[float, ...]:
    """A box in shares of what is left of its picture when that is brought to a size, see :func:`reverie.data.pixels.fit_to`; where nothing
    of it is left it is empty."""
    ratios = (size[0] / image[1], size[1] / image[0])
    scale = {"crop": max(ratios), "pad": min(ratios)}.get(fit)
    shares = [1.0 if scale is None else scale / ratio for ratio in ratios] * 2
    return tuple(min(1.0, max(0.0, (v - 0.5) * share + 0.5)) for v, share in zip(box, shares, strict=True))


def _check(box: Sequence[float], what: str) -> None:
    top, left, bottom, right = box
    if not (0.0 <= top < bottom <= 1.0 and 0.0 <= left < right <= 1.0):
        raise InputError(
            f"{what} is empty or not inside the picture: top and left are less than bottom and right, all from 0 to 1"
        )


def text(path: Path) -> str:
    """What a text file holds.

    Raises:
        InputError: when it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{shown(path)} cannot be read as text: {error}") from error
