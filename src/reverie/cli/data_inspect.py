"""``reverie data inspect PATH``."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from reverie.cli.arguments import parse
from reverie.core.text import shown

if TYPE_CHECKING:
    from reverie.data.inspecting import Inspected

LISTED = 5
"""Of each kind of thing, at most."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Look at every picture of a data set: counts, sizes, modes, classes, exact and near duplicates, files that cannot be read.

    Attributes:
        path: a folder of pictures, a zip file, shards of tar files, or Parquet or Arrow files.
        out: the contact sheet, a picture file; NAME-sheet.png without.
    """

    path: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PATH")]
    out: Path | None = None


def main(arguments: list[str]) -> None:
    given = parse(Arguments, arguments, "data inspect")
    from reverie.data.inspecting import inspect
    from reverie.data.loading import existing
    from reverie.data.stored import title
    from reverie.learn import grid

    path = existing(given.path)
    found = inspect(path)
    for line in _lines(title(path.resolve()), found):
        print(shown(line))
    images, columns, names = found.sheet()
    sheet = given.out or Path(f"{title(path.resolve())}-sheet.png")
    grid.save(grid.tile(images, columns, names), sheet)
    print(shown(f"{sheet}: {len(images)} of them"))


def _lines(name: str, found: "Inspected") -> list[str]:
    """What was found, a line a matter."""
    sizes = Counter({f"{width}x{height}": count for (width, height), count in found.sizes.items()})
    short = sorted(min(size) for size in found.sizes.elements())
    lines = [
        f"{name}: {len(found.kept):,} pictures ({_counted(found.formats)})",
        f"sizes: {_counted(sizes)}; the short sides from {short[0]} to {short[-1]}, half of them up to {short[len(short) // 2]}",
        f"modes: {_counted(found.modes)}",
        f"classes: {_counted(found.classes)}" if found.classes else "classes: none",
    ]
    for what, groups in (("exact duplicates", found.exact), ("near duplicates", found.near)):
        more = sum(map(len, groups)) - len(groups)
        lines.append(f"{what}: {f'{more:,} more than once, of {len(groups):,} pictures' if groups else 'none'}")
        lines += _first([" = ".join(_some(group)) for group in groups])
    lines.append(f"left out: {f'{len(found.skipped):,} files' if found.skipped else 'nothing'}")
    return lines + _first([f"{item.path}: {item.reason}" for item in found.skipped])


def _counted(counts: "Counter[str] | dict[str, int]") -> str:
    most = Counter(counts).most_common(LISTED)
    more = [f"{len(counts) - LISTED:,} others"] if len(counts) > LISTED else []
    return ", ".join([*(f"{name} {count:,}" for name, count in most), *more])


def _first(lines: Sequence[str]) -> list[str]:
    return [f"  {line}" for line in _some(lines)]


def _some(items: Sequence[str]) -> list[str]:
    return [*items[:LISTED], *([f"… and {len(items) - LISTED:,} more"] if len(items) > LISTED else [])]
