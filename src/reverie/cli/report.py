"""``reverie report RUN``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from reverie.cli.arguments import parse
from reverie.cli.placing import Placing
from reverie.core.text import shown


@dataclass(frozen=True, kw_only=True)
class Arguments(Placing):
    """Write report.html of a run: one file that needs nothing else.

    Attributes:
        run: folder of a run.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]


def main(arguments: list[str]) -> None:
    given = parse(Arguments, arguments, "report")
    from reverie.report import report

    print(shown(report(given.open(given.run))))
