"""The ladder of records: seconds of training on two cores until samples reach the line (line.py) at their best guidance scale.

    python bench/speedrun/run.py run demo                         # five seeds of a recipe; goes on where it stopped
    python bench/speedrun/run.py run bench/speedrun/recipes/short.yaml --seeds 0 1 2
    python bench/speedrun/run.py run demo --clock processor       # on a machine with other work: one thread, half its seconds
    python bench/speedrun/run.py ladder                           # the table, with the test of each record against the one before
    python bench/speedrun/run.py controls                         # class means and a copier fail

The time is that of the loop and of what it is given (fitting the prior); nothing is validated or drawn on the way. Each seed is a line of
logs/RECIPE.jsonl. A record is a recipe all of whose seeds reach the line, faster than the record before it by Welch's test at 5 %.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from line import class_means, copier, lacks

from guidance_scale import at_scales
from panel import Panel
from reverie.core.files import write
from reverie.core.memory import keep_freed_memory
from reverie.learn.checkpoint import Checkpoint
from reverie.learn.observer import Observer
from reverie.recipes import serialisation, sources
from reverie.recipes.recipe import Recipe
from reverie.recipes.runs import Run
from reverie.recipes.training import make, train

LOGS = Path(__file__).parent / "logs"
RECIPES = ("demo", "short")
"""The recipes in their order."""
SCALES, COUNT, LEVEL = (2.0, 2.5, 3.0), 1000, 0.05
CORES = 2


class Stopwatch(Observer):
    """Seconds from the beginning of the loop to its last checkpoint, before anything is looked at."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock, self.seconds = clock, 0.0

    def begun(self, folder: Path, images: int) -> None:
        self.start = self.clock()

    def saved(self, checkpoint: Checkpoint) -> None:
        self.seconds = self.clock() - self.start


def recipe_of(spec: str, seed: int, processes: int) -> Recipe:
    """A recipe by name or file, as it is run here: it looks at nothing before its end."""
    recipe = serialisation.load(serialisation.find(spec))
    images = recipe.train.images
    ends = dict.fromkeys(("validate_every", "sample_every", "save_every"), images)
    return replace(recipe, seed=seed, train=replace(recipe.train, processes=processes, ema_profiles=(), **ends))


def attempt(spec: str, seed: int, panel: Panel, clock: str, out: Path) -> dict[str, Any]:
    """A seed: trained, drawn at every scale, judged."""
    alone = clock == "processor"
    now = time.process_time if alone else time.perf_counter
    watch = Stopwatch(now)
    run, _ = train(recipe_of(spec, seed, 1 if alone else CORES), out, fresh=True, observers=[watch])
    took = watch.seconds + prepared(run, now)
    scales = at_scales(run, panel, SCALES, seed)
    return {
        "recipe": Path(spec).stem,
        "seed": seed,
        "seconds": round(took / CORES if alone else took, 1),
        "clock": clock,
        "images": run.recipe.train.images,
        "scales": scales,
    }


def prepared(run: Run, clock: Callable[[], float]) -> float:
    """Seconds in which the task is made and its prior fitted."""
    data, held_out = (sources.load(run.recipe, split) for split in ("train", "test"))
    start = clock()
    make(run.recipe, data, held_out, run.folder)
    return clock() - start


def best(scales: dict[str, Any], view: str) -> str:
    """The scale that lacks least, and of those the one with the least ratio."""
    return min(scales, key=lambda s: (len(lacks(scales[s], view)), scales[s][view]["ratio"]))


def log(name: str) -> list[dict[str, Any]]:
    path = LOGS / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def faster(now: Sequence[float], before: Sequence[float]) -> float:
    """The probability of seconds as much fewer as these by chance: Welch's test, one-sided.

    Both are to be taken by one clock on one machine, in turns.
    """
    from scipy.stats import ttest_ind

    return float(ttest_ind(now, before, equal_var=False, alternative="less").pvalue)


def ladder(view: str) -> str:
    """The recipes in their order, each against the record before it, as markdown."""
    columns = (
        "recipe", "seconds", "seeds", "reach the line", "best scale", "accuracy", "ratio", "recall", "copies", "record",
    )  # fmt: skip
    lines = [f"| {' | '.join(columns)} |", "|---|" + "---:|" * (len(columns) - 2) + "---|"]
    record: list[float] = []
    for name in (each for each in RECIPES if log(each)):
        seeds = log(name)
        seconds = [each["seconds"] for each in seeds]
        chosen = [best(each["scales"], view) for each in seeds]
        found = [each["scales"][scale] for each, scale in zip(seeds, chosen, strict=True)]
        reached = sum(not lacks(figures, view) for figures in found)
        verdict, stands = judged(seconds, record, reached == len(seeds))
        figures = [
            f"{100 * mean(f['accuracy'] for f in found):.1f} %",
            f"{mean(f[view]['ratio'] for f in found):.2f}",
            f"{100 * mean(f[view]['recall'] for f in found):.0f} %",
            f"{100 * mean(f['copies'] for f in found):.1f} %",
        ]
        counts = [f"{mean(seconds):.0f}", f"{len(seeds)}", f"{reached}", ", ".join(sorted(set(chosen)))]
        lines.append(f"| {' | '.join([f'`{name}`', *counts, *figures, verdict])} |")
        record = seconds if stands else record
    return "\n".join(lines)


def judged(seconds: Sequence[float], record: Sequence[float], reached: bool) -> tuple[str, bool]:
    """What the ladder says of a recipe, and whether it is the record now."""
    if not reached:
        return "no: not every seed reaches the line", False
    if not record:
        return "the first", True
    if min(len(record), len(seconds)) < 2:
        return "not yet: a test takes two seeds of each", False
    p = faster(seconds, record)
    return (f"p = {p:.2g}", True) if p < LEVEL else (f"no: p = {p:.2g}", False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    running = verbs.add_parser("run")
    running.add_argument("recipe")
    running.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    running.add_argument("--clock", choices=("wall", "processor"), default="wall")
    running.add_argument("--out", type=Path, default=Path("runs") / "speedrun")
    for verb in ("ladder", "controls"):
        verbs.add_parser(verb)
    given = parser.parse_args()
    panel = Panel("mnist5k", outside=False)
    (view,) = panel.views
    if given.verb == "ladder":
        print(ladder(view))
        return
    if given.verb == "controls":
        labels = panel.labels(COUNT)
        assert labels is not None
        for control in (class_means, copier):
            print(
                f"{control.__name__}: fails by {', '.join(lacks(panel.figures(control(panel, labels), labels), view))}"
            )
        return
    keep_freed_memory()
    torch.set_num_threads(1)
    name = Path(given.recipe).stem
    for seed in given.seeds:
        if any(each["seed"] == seed and each["clock"] == given.clock for each in log(name)):
            continue
        found = attempt(given.recipe, seed, panel, given.clock, given.out / f"{name}-{seed}")
        LOGS.mkdir(exist_ok=True)
        with (LOGS / f"{name}.jsonl").open("a") as file:
            file.write(json.dumps(found) + "\n")
        write(LOGS / "ladder.md", ladder(view) + "\n")
        scale = best(found["scales"], view)
        short = ", ".join(lacks(found["scales"][scale], view)) or "nothing"
        print(f"{name}, seed {seed}: {found['seconds']:g} s, scale {scale}, lacks {short}", flush=True)


if __name__ == "__main__":
    main()
