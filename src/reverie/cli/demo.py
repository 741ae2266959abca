"""``reverie demo``."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from reverie.cli.arguments import parse
from reverie.core.text import counted
from reverie.recipes import serialisation


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train on bundled digits, measure what was learned and write a report; what is done already is not done again.

    Attributes:
        out: folder of the run.
        fresh: start anew; the old run is renamed, not removed.
    """

    out: Path = Path("runs/demo")
    fresh: bool = False


def main(arguments: list[str]) -> int:
    given = parse(Arguments, arguments, "demo")
    clock = Clock()
    import torch

    from reverie.cli.evaluate import show
    from reverie.measure import Evaluation
    from reverie.recipes.measuring import EVALUATION, measure
    from reverie.recipes.training import train
    from reverie.report import report

    recipe = serialisation.load(serialisation.find("demo"))
    clock.lap("start")
    print(
        f"learning to draw digits: {recipe.train.images:,} images, {counted(torch.get_num_threads(), 'thread')}",
        file=sys.stderr,
    )
    run, seen = train(recipe, given.out, given.fresh)
    if seen < recipe.train.images:
        print(f"stopped at {seen:,} of {recipe.train.images:,} images; the same command goes on", file=sys.stderr)
        return 130
    clock.lap("train")
    measured = run.folder / EVALUATION
    current = measured.exists() and measured.stat().st_mtime > run.checkpoint.folder.stat().st_mtime
    show((Evaluation.load(measured) if current else None) or measure(run))
    clock.lap("measure")
    path = report(run)
    clock.lap("report")
    print(
        f"\n{clock}\nthe report: {path.absolute()}\nmore digits: reverie sample {quote(str(run.folder))} --label 7 --n 16 --out sevens.png"
    )
    return 0


class Clock:
    """Seconds of each phase."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self.last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self.last = now - self.last, now

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.laps.items())
        return f"{parts}: {sum(self.laps.values()):.0f} s in all"
