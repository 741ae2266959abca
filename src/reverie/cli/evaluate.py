"""``reverie evaluate RUN``."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from reverie.cli.arguments import parse
from reverie.cli.placing import Placing
from reverie.core.bounds import STEPS, Bound, check_bounds
from reverie.core.errors import InputError
from reverie.core.names import GridName
from reverie.core.text import shown

if TYPE_CHECKING:
    from reverie.measure.captions import CaptionScores
    from reverie.measure.figures import Evaluation, Outliers
    from reverie.recipes.recipe import Recipe

KEYS = ("solver", "steps", "grid", "scale", "temperature")
LOOKS = ("judge", "extractor", "reference", "write_statistics")
"""What samples are measured by."""
SAMPLES = (*KEYS, "seeds", *LOOKS, "score")
"""What the samples that are measured depend on, and what they are measured by."""


@dataclass(frozen=True, kw_only=True)
class Arguments(Placing):
    """Measure the samples of a run against held-out pictures, beside controls; adds to evaluation.json in it.

    Attributes:
        run: folder of a run, or of one of its checkpoints.
        n: samples per seed.
        seeds: figures are means over them.
        solver: auto, stochastic, or one by name, such as ddim, dpmpp2, unipc3 or heun; this and the next three are as in the run's recipe
            by default.
        steps: of the solver.
        grid: where the steps are taken.
        scale: of guidance; 1 is the model as it is.
        temperature: of the noise that a diffusion model begins from, or of the tokens that are drawn; below 1 pictures are less varied.
        judge: a judge's file, for data without a bundled one.
        extractor: measure distances in other features: inception:PATH, with the weights of FID from pytorch-fid or torch-fidelity.
        reference: statistics of a data set (npz of ADM, EDM or pytorch-fid) to take the Fréchet distance to, besides held-out pictures.
        write_statistics: write such a file (npz) of all training pictures; it is the reference if none is given.
        batch: samples drawn at a time.
        score: in place of all this, whether samples show the captions of held-out pictures, by a picture-text model: a run of the task
            towers, or a folder of transformers with a CLIP.
        split: of which pictures score takes the captions: held-out ones, or those that were trained on.
        outliers: in place of all this, whether the model's density tells held-out pictures from those of another data set or folder, n of
            each.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    n: Annotated[int, Bound(ge=1, le=10**6)] = 1000
    seeds: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT …")] = (0, 1, 2)
    solver: str | None = None
    steps: Annotated[int, STEPS] | None = None
    grid: GridName | None = None
    scale: float | None = None
    temperature: float | None = None
    judge: Path | None = None
    extractor: str | None = None
    reference: Path | None = None
    write_statistics: Path | None = None
    batch: Annotated[int, Bound(ge=1, le=10**6)] = 250
    score: Path | None = None
    split: Literal["test", "train"] = "test"
    outliers: str | None = None


def main(arguments: list[str]) -> None:
    given = parse(Arguments, arguments, "evaluate")
    if given.outliers is not None:
        for field in fields(given):
            if field.name in SAMPLES and getattr(given, field.name) != field.default:
                flag = field.name.replace("_", "-")
                raise InputError(f"--outliers asks for densities, and draws no samples: leave --{flag} out")
    if given.score is not None:
        for name in LOOKS:
            if getattr(given, name) is not None:
                raise InputError(f"--score asks for captions only: leave --{name.replace('_', '-')} out")
    elif given.split != "test":
        raise InputError("samples are measured against held-out pictures: --split train is for --score")
    with given.joined() as writes:
        evaluate(given, writes)


def evaluate(given: Arguments, writes: bool) -> None:
    """Measure, and print what was found if this is the process that writes."""
    from reverie.recipes.measuring import match, measure, tell_apart
    from reverie.solve.maps import MADE

    run = given.open(given.run)
    if given.outliers is not None:
        show_outliers(tell_apart(run, given.outliers, n=given.n, batch_size=given.batch))
        print(shown(run.folder / "evaluation.json"))
        return
    asked = {key: getattr(given, key) for key in KEYS}
    config = drawn_with(run.recipe, asked)
    if given.score is not None:
        show_captions(
            match(run, given.score, config, split=given.split, n=given.n, seeds=given.seeds, batch_size=given.batch)
        )
        print(shown(run.folder / "captions.json"))
        return
    several = run.recipe.task.measured(config) if all(value is None for value in asked.values()) else (config,)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", MADE)
        first, *others = [
            measure(
                run,
                each,
                n=given.n,
                seeds=given.seeds,
                judge=given.judge,
                features=given.extractor,
                reference=given.reference,
                write_statistics=given.write_statistics,
                batch_size=given.batch,
            )
            for each in reversed(several)
        ][::-1]
    if not writes:
        return
    show(first)
    if others:
        beside([first, *others])
    print(shown(f"{run.folder / 'evaluation.json'}; next: reverie report {quote(str(run.folder))}"))


def drawn_with(recipe: "Recipe", asked: dict[str, Any]) -> Any:
    """The recipe's settings of drawing with those that were asked for (not None) on top.

    Raises:
        InputError: for one that what the run trained does not have, or that is out of its range.
    """
    asked = {key: value for key, value in asked.items() if value is not None}
    for key in asked:
        if not hasattr(recipe.usual, key):
            raise InputError(f"a run of the task {recipe.task.name} is drawn from without --{key}: leave it out")
    from reverie.solve.auto import split

    solver, grid = split(asked.get("solver"))
    if grid is not None and "grid" not in asked:  # in place of the recipe's
        asked |= {"solver": solver, "grid": grid}
    config = replace(recipe.usual, **asked)
    check_bounds(config, lambda key: f"--{key.replace('_', '-')}")
    return config


def beside(evaluations: "Sequence[Evaluation]") -> None:
    """Print what the samples of several settings measure, a row each."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    measures = [f for f in evaluations[0].figures if f.of == "samples"]
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for heading in ("drawn", *(f.title for f in measures)):
        table.add_column(shown(heading), justify="left" if heading == "drawn" else "right")
    for evaluation in evaluations:
        solver, steps = evaluation.drawn.get("solver"), evaluation.drawn.get("steps")
        how = f"{steps} steps" if solver is None else f"teacher, {steps} steps"
        found = (evaluation.figure(f.measure, "samples") for f in measures)
        table.add_row(Text(how), *("" if f is None else f.text for f in found))
    Console(highlight=False).print(table)


def show(evaluation: "Evaluation") -> None:
    """Print the figures as a table, with how they were taken below it."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from reverie.measure.figures import SUBJECTS, percent

    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("")
    for of in evaluation.subjects:
        table.add_column(SUBJECTS[of], justify="right")
    for measure in dict.fromkeys(f.measure for f in evaluation.figures):
        row = [evaluation.figure(measure, of) for of in evaluation.subjects]
        style = None if evaluation.tells(measure) else "dim"
        table.add_row(
            Text(shown(next(f.title for f in row if f))), *("" if f is None else f.text for f in row), style=style
        )
    copies = [evaluation.memorisation.get(of) for of in evaluation.subjects]
    table.add_row("Copies of training pictures", *("" if m is None else percent(m.copies) for m in copies))
    console = Console(highlight=False)
    console.print(table)
    console.print(Text(shown(f"{evaluation.how} {evaluation.verdict}")))
    for warning in evaluation.warnings:
        console.print(f"[yellow]{warning}[/yellow]")


def show_outliers(found: "Outliers") -> None:
    """Print the areas as a table, with what they are of below it."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column(shown(f"told from {found.data} by"))
    table.add_column("AUROC", justify="right")
    for name, area in found.rows:
        table.add_row(name, area)
    console = Console(highlight=False)
    console.print(table)
    console.print(shown(found.how), markup=False)


def show_captions(found: "CaptionScores") -> None:
    """Print the figures as a table, with how they were taken below it."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for heading in ("", *found.heads):
        table.add_column(heading, justify="right" if heading else "left")
    for row in found.table:
        table.add_row(*row)
    console = Console(highlight=False)
    console.print(table)
    console.print(shown(found.how), markup=False)
