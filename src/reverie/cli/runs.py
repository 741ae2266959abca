"""``reverie runs [FOLDER]``."""

import textwrap
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import tyro

from reverie.cli.arguments import parse
from reverie.core.errors import InputError, RunError, unknown
from reverie.core.text import shown

if TYPE_CHECKING:
    from reverie.learn.checkpoint import Checkpoint
    from reverie.recipes.runs import Run

COLUMNS = ("name", "data", "task", "weights", "images", "loss", "measures", "age")
HIGHER = ("accuracy", "precision", "recall")
"""Figures of which more is better."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """List the runs in a folder.

    They are sorted and chosen by a column (name, data, task, weights, images, loss, age), a figure of their evaluation (accuracy, frechet,
    frechet_ratio, kernel, precision, recall, …) or any key of their recipe (net.name, train.lr, …).

    Attributes:
        folder: where to look.
        sort: what to sort by: figures from the best, all else from the least; runs without it come last.
        where: KEY=VALUE, only the runs that have it, such as task=gan; words may be a part, several must all hold.
    """

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="[FOLDER]")] = Path("runs")
    sort: str = "name"
    where: tuple[str, ...] = ()


class Row(NamedTuple):
    """A run in the table: its cells, and what it can be sorted and chosen by."""

    cells: list[str]
    known: dict[str, Any]


def main(arguments: list[str]) -> None:
    given = parse(Arguments, arguments, "runs")
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    folder = given.folder
    found = sorted(path.parent for path in folder.glob("*/recipe.yaml"))
    if not found:
        raise InputError(
            f"no runs in {folder.absolute()}: train one with reverie train, or name the folder that holds them"
        )
    rows = _chosen([_row(path) for path in found], given)
    more = [given.sort] if any(given.sort in row.known for row in rows) and given.sort not in COLUMNS else []
    table = Table(*COLUMNS, *more, title=escape(shown(folder)), box=None, header_style="bold", pad_edge=False)
    for row in rows:
        cells = [*row.cells, *(_said(row.known.get(key)) for key in more)]
        table.add_row(*(escape(shown(cell)) for cell in cells))
    console = Console()
    console.width = console.width if console.is_terminal else 200
    console.print(table)


def _chosen(rows: list[Row], given: Arguments) -> list[Row]:
    """The rows that are asked for, in the order that is asked for."""
    pairs = [condition.partition("=") for condition in given.where]
    if wrong := [key for key, equals, _ in pairs if not equals]:
        raise InputError(f"--where takes KEY=VALUE, such as task=gan: got {wrong[0]!r}")
    from reverie.measure.figures import TITLES

    keys = {*COLUMNS, *TITLES, *(key for row in rows for key in row.known)} - {"measures"}
    for key in (given.sort, *(key for key, *_ in pairs)):
        if key not in keys:
            raise unknown("key of runs", key, sorted(keys))
    rows = [row for row in rows if all(_is(row.known.get(key), value) for key, _, value in pairs)]
    having, without = [], []
    for row in rows:
        (without if row.known.get(given.sort) is None else having).append(row)
    numbers = all(isinstance(row.known[given.sort], int | float) for row in having)
    having.sort(key=lambda row: row.known[given.sort] if numbers else str(row.known[given.sort]))
    return [*(having[::-1] if given.sort in HIGHER else having), *without]


def _is(value: Any, wanted: str) -> bool:
    """Whether a value is the one that is wanted: the same number, or text that holds it."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(wanted) == value
        except ValueError:
            return False
    return value is not None and wanted.casefold() in str(value).casefold()


def _said(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _size(checkpoint: "Checkpoint") -> tuple[int, int]:
    """The images seen, and the parameters: of an earlier run the numbers in its file, those that are not trained too."""
    state, held = checkpoint.state, checkpoint.parameters("model")
    return state["images"], state.get("parameters", held)


def _row(folder: Path) -> Row:
    """A run; whatever is wrong with one is said in its row and hides no other."""
    from reverie.learn.checkpoint import quiet
    from reverie.recipes.runs import Run
    from reverie.recipes.serialisation import describe, flat

    try:
        run = Run(folder)
        recipe = run.recipe
        seen, weights = run.checkpoints.newest(_size, quiet) or (0, None)
        losses = [float(entry["loss"]) for entry in run.log if "loss" in entry]
        data = recipe.data.name if "/" not in recipe.data.name else Path(recipe.data.name).name
        task = describe(recipe.task)
        figures, age = _figures(run), _age(run.folder / ("log.jsonl" if losses else "recipe.yaml"))
        known = flat(recipe) | figures | {"name": folder.name, "data": data, "weights": weights}
        known |= {"task": task if recipe.task.name in task else f"{recipe.task.name} {task}"}
        known |= {"images": seen, "loss": losses[-1] if losses else None, "age": age}
        cells = [
            folder.name,
            data,
            task,
            "" if weights is None else _short(weights),
            f"{_short(seen)}/{_short(recipe.train.images)}",
            f"{losses[-1]:.4f}" if losses else "",
            _measures(figures),
            _ago(age),
        ]
        return Row(cells, known)
    except Exception as error:
        why = str(error) if isinstance(error, InputError | RunError | OSError) else f"{type(error).__name__}: {error}"
        cells = [folder.name, f"unreadable: {textwrap.shorten(why, 500)}", *[""] * (len(COLUMNS) - 2)]
        return Row(cells, {"name": folder.name})


def _figures(run: "Run") -> dict[str, float]:
    """The figures of the samples in an evaluation, if the run has one."""
    path = run.folder / "evaluation.json"
    if not path.is_file():
        return {}
    from reverie.measure.figures import TITLES, Evaluation

    if (evaluation := Evaluation.load(path)) is None:
        return {}
    found = {measure: evaluation.figure(measure) for measure in TITLES}
    return {measure: figure.value for measure, figure in found.items() if figure is not None}


def _measures(figures: dict[str, float]) -> str:
    """The main figures."""
    said = {"accuracy": "{:.1%} right", "frechet_ratio": "{:.2f}x FD of real"}
    return ", ".join(text.format(figures[name]) for name, text in said.items() if name in figures)


def _short(count: int) -> str:
    for unit, size in (("M", 1_000_000), ("k", 1_000)):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)


def _age(path: Path) -> float:
    """Seconds since it was written."""
    return time.time() - path.stat().st_mtime


def _ago(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
