"""``reverie compress RUN PICTURES OUT``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from reverie.cli.arguments import parse
from reverie.core.errors import InputError
from reverie.core.text import shown


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Compress pictures without loss by what an autoregressive run has learned; reverie decompress gives them back.

    Attributes:
        run: folder of a run, or of one of its checkpoints: of pixelcnn, pixelcnnpp, pixelrnn, subpixel, or tile with a mixture head.
        pictures: a folder of pictures of the size that the run draws, or one of them.
        out: the archive, ending in .rvz.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    pictures: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PICTURES")]
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]


def main(arguments: list[str]) -> None:
    given = parse(Arguments, arguments, "compress")
    if given.out.suffix != ".rvz":
        raise InputError(f"an archive ends in .rvz: got {given.out}")
    from rich.console import Console
    from rich.table import Table

    from reverie.recipes.archives import compress
    from reverie.recipes.runs import Run

    made = compress(Run(given.run), given.pictures, given.out)
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column(f"{made.pictures:,} pictures")
    table.add_column("bytes", justify="right")
    table.add_column("a picture", justify="right")
    sizes = {f"{given.out.name}, all of it": made.total, "  the pictures in it": made.payload, "  -log2 p": made.ideal}
    for name, size in {**sizes, **{f"{name}, without loss": size for name, size in made.others.items()}}.items():
        table.add_row(shown(name), f"{size:,.0f}", f"{size / made.pictures:,.1f}")
    Console(highlight=False).print(table)
    print(shown(given.out))
