"""``reverie report RUN``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from reverie.cli.placing import Placing


@dataclass(frozen=True, kw_only=True)
class Arguments(Placing):
    """Write report.html of a run: one file that needs nothing else.

    Attributes:
        run: folder of a run.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]


def main(arguments: list[str]) -> None:
    given = tyro.cli(Arguments, args=arguments, prog="reverie report")
    from reverie.recipes.report import report

    print(report(given.open(given.run)))
