"""``reverie compare DATA --models …`` and ``reverie compare RUN RUN …``."""

import sys
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import tyro

from reverie.cli.arguments import parse
from reverie.core.bounds import Bound
from reverie.core.errors import InputError
from reverie.core.text import shown

if TYPE_CHECKING:
    from reverie.recipes.comparing import Compared


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Models of the same pictures side by side: a table, and one page that needs no other file.

    With --models, those that are missing are trained on a data set for the same time each, as runs/DATA-MODEL; else runs that are there are
    compared. All are measured by one judge. What is done is kept: the same command goes on after an interrupt.

    Attributes:
        what: a data set or a folder of pictures, with --models; or folders of runs.
        models: diffusion (what suits the data) or recipes by name, such as gan, vae, pixelcnn, maskgit, with commas between.
        budget: time to train each, its tokenizer included: 90s, 10m, 1h30m.
        n: samples per seed.
        seeds: figures are means over them.
        judge: a judge's file or run, for data without a bundled one.
        out: the page, runs/compare-DATA.html by default.
    """

    what: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="DATA|RUN…")]
    models: str | None = None
    budget: str = "10m"
    n: Annotated[int, Bound(ge=4, le=10**6)] = 1000
    seeds: tuple[int, ...] = (0,)
    judge: Path | None = None
    out: Path | None = None


def main(arguments: list[str]) -> int:
    given = parse(Arguments, arguments, "compare")
    from reverie.recipes import comparing
    from reverie.recipes.runs import Run
    from reverie.report.comparison import comparison

    folders, broken, stopped = (list(map(Path, given.what)), [], False) if given.models is None else _trained(given)
    runs = [Run(folder) for folder in folders]
    if len(runs) < 2 and given.models is None:
        raise InputError(
            f"two runs or more are compared: got {len(runs)}; or a data set with --models diffusion,vae trains what is missing"
        )
    found: list[Compared] = []
    if runs:
        comparing.check_same(runs)
        for number, run in enumerate(runs, 1):
            print(shown(f"measuring {run.folder} ({number} of {len(runs)})"), file=sys.stderr)
            try:
                found.append(comparing.compared(run, n=given.n, seeds=given.seeds, judge=given.judge))
            except InputError as error:
                broken.append((str(run.folder), str(error)))
    if found:
        name = Path(runs[0].recipe.data.name).name
        page = comparison(found, given.out or Path("runs") / f"compare-{name}.html")
        show(found)
        print(shown(page))
    for model, why in broken:
        print(shown(f"{model} is left out: {why}"), file=sys.stderr)
    if stopped:
        print(shown(f"stopped; go on with: reverie compare {' '.join(map(quote, arguments))}"), file=sys.stderr)
        return 130
    return 1 if broken else 0


def _trained(given: Arguments) -> tuple[list[Path], list[tuple[str, str]], bool]:
    """The runs of the models, those that failed and why, and whether training was interrupted."""
    from reverie import data
    from reverie.recipes import comparing
    from reverie.recipes.outlook import seconds

    assert given.models is not None
    if len(given.what) != 1:
        raise InputError(f"--models are trained on one data set: got {' '.join(given.what)}")
    models = [model.strip() for model in given.models.split(",") if model.strip()]
    comparing.check_models(models)
    seconds(given.budget)
    name = given.what[0]
    data.load(name, "test", largest=64)
    done: list[Path] = []
    broken: list[tuple[str, str]] = []
    for number, model in enumerate(models, 1):
        folder = Path("runs") / f"{Path(name).name}-{model}"
        print(shown(f"{model} ({number} of {len(models)}): {folder}"), file=sys.stderr)
        code = comparing.train(name, model, given.budget, folder)
        if code == 0:
            done.append(folder)
        elif code == 130:
            return done, broken, True
        else:
            broken.append((model, f"reverie train ended with code {code}, see above"))
    return done, broken, False


def show(runs: "list[Compared]") -> None:
    """Print the table."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from reverie.report.comparison import table

    heads, rows = table(runs)
    printed = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for i, head in enumerate(heads):
        printed.add_column(head, justify="right" if i else "left")
    for i, row in enumerate(rows):
        printed.add_row(*(escape(shown(cell)) for cell in row), style=None if i < len(runs) else "dim")
    console = Console(highlight=False)
    console.width = console.width if console.is_terminal else 240
    console.print(printed)
