"""``reverie distill RUN``: ``reverie train METHOD --teacher RUN`` with the training of that run."""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote
from typing import Annotated

import tyro

from reverie.cli.train import take
from reverie.core.errors import InputError, unknown
from reverie.core.text import shown
from reverie.diffusion.teacher import FromTeacher
from reverie.recipes import tasks
from reverie.recipes.recipe import Recipe

SHORT = {"--steps": "--sample.steps"}
DEFAULT = "progressive"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Distil a diffusion model into one that draws in one step or a few. The result is a run like any other: the same command resumes it.

    --method NAME chooses how (progressive without); its own settings are flags, and so is any key of a recipe. --steps N (--sample.steps)
    is how many evaluations the student is made for and drawn with. What is not given is as in the run, its training too.

    Attributes:
        run: folder of the run of the teacher, a diffusion model; it comes first.
        out: folder of the new run, runs/NAME-METHOD by default.
        fresh: start anew; the old run is renamed, not removed.
        budget: train for a time, such as 90s, 5m or 1h30m, in place of a number of images.
    """

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    out: Path | None = None
    fresh: bool = False
    budget: str | None = None
    recipe: Annotated[Recipe, tyro.conf.arg(name="")] = field(default_factory=Recipe)


def main(arguments: list[str]) -> int:
    given = parse(arguments)
    from reverie.learn.runtime import launched
    from reverie.recipes.outlook import seconds
    from reverie.recipes.training import train

    budget = None if given.budget is None else seconds(given.budget)
    run, seen = train(given.recipe, given.out, given.fresh, budget)
    total, folder = run.recipe.train.images, quote(str(run.folder))
    if launched()[0] > 0:
        return 0
    if seen < total:
        print(shown(f"stopped at {seen:,} of {total:,} images; go on with: reverie train {folder}"), file=sys.stderr)
        return 130
    print(shown(f"{run.folder}: {seen:,} images; next: reverie sample {folder}; reverie evaluate {folder}"))
    return 0


def methods() -> list[str]:
    """The tasks that begin with the model of another run."""
    return [name for name in tasks.names() if issubclass(tasks.config(name), FromTeacher)]


def parse(arguments: list[str]) -> Arguments:
    """The run first, then the method, then the flags that it has."""
    method, arguments = take("--method", arguments)
    method = method or DEFAULT
    if method not in methods():
        raise unknown("method", method, methods())
    words = [next((new + a[len(old) :] for old, new in SHORT.items() if a.split("=")[0] == old), a) for a in arguments]
    config = tasks.config(method)
    named = bool(words) and not words[0].startswith("-")
    if not named and not {"-h", "--help"} & set(words):
        raise InputError("the teacher's run comes first: reverie distill RUN --method dmd2 --steps 1")
    recipe = taught(words[0], config) if named else Recipe(task=config())
    return tyro.cli(
        Arguments,
        args=words,
        default=Arguments(run=words[0] if named else tyro.MISSING, recipe=recipe),  # pyright: ignore[reportArgumentType]
        prog="reverie distill",
        config=(tyro.conf.AvoidSubcommands,),
    )


def taught(run: str, config: type) -> Recipe:
    """The recipe of a distillation: of the teacher's run its data and its training, and how it draws where the student draws so too."""
    from reverie.recipes.runs import Run

    teacher = Run(run).recipe
    task = config(teacher=run)
    sample = teacher.usual if isinstance(teacher.usual, task.Sample) else task.Sample()
    return replace(Recipe(task=task), data=teacher.data, train=task.training(teacher.train), sample=sample)
