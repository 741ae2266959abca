"""``reverie calibrate RUN``."""

from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Annotated

import tyro

from reverie.cli.arguments import parse
from reverie.cli.placing import Placing
from reverie.core.bounds import Bound
from reverie.core.text import shown


@dataclass(frozen=True, kw_only=True)
class Arguments(Placing):
    """Fit the times of few-step sampling to a run; sampling with the solver "auto" in so many steps at this scale then uses them.

    Attributes:
        run: folder of a run.
        steps: of the runs to calibrate, 2 to 30.
        scale: guidance to calibrate at; as the recipe says without.
        label: the labels that it will be sampled with, as in `reverie sample`; all without.
        seed: of the noise.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    steps: Annotated[int, Bound(ge=2, le=30)] = 10
    scale: float | None = None
    label: str | None = None
    seed: int = 0


def main(arguments: list[str]) -> None:
    given = parse(Arguments, arguments, "calibrate")
    from reverie.cli.sample import choose, condition
    from reverie.solve.calibrate import TRAJECTORIES, calibrate

    run = given.open(given.run)
    classes = run.recipe.data.classes
    labels = choose("all" if given.label is None and classes else given.label, run.recipe)
    scale = 1.0 if labels is None else given.scale
    denoise = run.guided(scale)
    plan = calibrate(denoise, given.steps, cond=condition(labels, TRAJECTORIES), seed=given.seed)
    path = run.path(f"calibrated-{plan.nfe}-{plan.guidance:g}.json")
    plan.save(path)
    print(plan.story())
    print(
        f"{shown(path)}: {plan.ratio:.2f} times the default's typical error on other noise, after {plan.evaluations:,} evaluations; "
        f"next: reverie sample {quote(str(run.folder))} --solver auto --steps {plan.nfe} --scale {plan.guidance:g}"
    )
