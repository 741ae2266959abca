"""``reverie decompress ARCHIVE OUTDIR``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from reverie.cli.arguments import parse
from reverie.core.text import shown


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Give back the pictures of an archive that reverie compress wrote, as PNG under their own names.

    Attributes:
        archive: the file.
        out: the folder.
        run: a run with the weights that compressed, if it is no longer where it was.
    """

    archive: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="ARCHIVE")]
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUTDIR")]
    run: Path | None = None


def main(arguments: list[str]) -> None:
    given = parse(Arguments, arguments, "decompress")
    from reverie.recipes.archives import decompress

    paths = decompress(given.archive, given.out, given.run)
    print(shown(f"{given.out}: {len(paths):,} pictures"))
