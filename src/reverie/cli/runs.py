"""``reverie runs [FOLDER]``."""

import textwrap
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from reverie.cli.arguments import parse
from reverie.core.errors import InputError, RunError
from reverie.core.text import shown

if TYPE_CHECKING:
    from reverie.learn.checkpoint import Checkpoint
    from reverie.recipes.runs import Run

COLUMNS = ("name", "data", "task", "weights", "images", "loss", "measures", "age")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """List the runs in a folder.

    Attributes:
        folder: where to look.
    """

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="[FOLDER]")] = Path("runs")


def main(arguments: list[str]) -> None:
    folder = parse(Arguments, arguments, "runs").folder
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    found = sorted(path.parent for path in folder.glob("*/recipe.yaml"))
    if not found:
        raise InputError(
            f"no runs in {folder.absolute()}: train one with reverie train, or name the folder that holds them"
        )
    table = Table(*COLUMNS, title=escape(shown(folder)), box=None, header_style="bold", pad_edge=False)
    for path in found:
        table.add_row(*(escape(shown(cell)) for cell in (path.name, *_row(path))))
    console = Console()
    console.width = console.width if console.is_terminal else 200
    console.print(table)


def _size(checkpoint: "Checkpoint") -> tuple[int, int]:
    """The images seen, and the parameters: of an earlier run the numbers in its file, those that are not trained too."""
    state, held = checkpoint.state, checkpoint.parameters("model")
    return state["images"], state.get("parameters", held)


def _row(folder: Path) -> list[str]:
    """The cells of a run; whatever is wrong with one is said in its row and hides no other."""
    from reverie.learn.checkpoint import quiet
    from reverie.recipes.runs import Run
    from reverie.recipes.serialisation import describe

    try:
        run = Run(folder)
        recipe = run.recipe
        seen, weights = run.checkpoints.newest(_size, quiet) or (0, None)
        losses = [float(entry["loss"]) for entry in run.log if "loss" in entry]
        return [
            recipe.data.name if "/" not in recipe.data.name else Path(recipe.data.name).name,
            describe(recipe.task),
            "" if weights is None else _short(weights),
            f"{_short(seen)}/{_short(recipe.train.images)}",
            f"{losses[-1]:.4f}" if losses else "",
            _measures(run),
            _age(run.folder / ("log.jsonl" if losses else "recipe.yaml")),
        ]
    except Exception as error:
        why = str(error) if isinstance(error, InputError | RunError | OSError) else f"{type(error).__name__}: {error}"
        return [f"unreadable: {textwrap.shorten(why, 500)}", *[""] * (len(COLUMNS) - 2)]


def _measures(run: "Run") -> str:
    """The main figures of an evaluation, if the run has one."""
    path = run.folder / "evaluation.json"
    if not path.is_file():
        return ""
    from reverie.measure import Evaluation

    if (evaluation := Evaluation.load(path)) is None:
        return ""
    accuracy, ratio = evaluation.figure("accuracy"), evaluation.figure("frechet_ratio")
    said = [f"{accuracy.value:.1%} right" if accuracy else "", f"{ratio.value:.2f}x FD of real" if ratio else ""]
    return ", ".join(filter(None, said))


def _short(count: int) -> str:
    for unit, size in (("M", 1_000_000), ("k", 1_000)):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)


def _age(path: Path) -> str:
    seconds = time.time() - path.stat().st_mtime
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
