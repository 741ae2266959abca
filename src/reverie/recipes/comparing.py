"""Models on the same data, for the same time, measured by the same judge: the work behind ``reverie compare``."""

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from reverie.core.condition import Cond
from reverie.core.errors import InputError, RunError, unknown
from reverie.core.generator import Generator
from reverie.data import ImageSet
from reverie.measure.figures import Evaluation
from reverie.recipes import serialisation, sources
from reverie.recipes.measuring import EVALUATION, measure
from reverie.recipes.runs import Run
from reverie.solve.likelihood import bits_per_dimension, dequantise

MODELS = ("diffusion", "vqvae")
"""What is trained under a name besides the recipes': what suits the data; and a VQ-VAE, which draws by a prior over its tokens."""
FIRST, SECONDS, MOST = 4, 3.0, 250
"""Samples by which the pace is found, seconds of drawing that are timed after that, and samples of these at most."""
HELD_OUT = 64
"""Held-out pictures whose likelihood is measured."""


@dataclass(frozen=True)
class Compared:
    """A run and all that is said of it.

    Attributes:
        run, evaluation: itself and its measures.
        rate: samples a second, drawn as many at a time as fit :data:`SECONDS`.
        parameters: of what draws.
        seconds, memory: of training; None if an earlier version did not keep it.
        bits: per dimension of held-out pictures, None without a likelihood; ``bound`` where it is one from above.
    """

    run: Run
    evaluation: Evaluation
    rate: float
    parameters: int
    seconds: float
    memory: int | None
    bits: float | None
    bound: bool

    @property
    def name(self) -> str:
        return self.run.folder.name


def check_models(models: Sequence[str]) -> None:
    """Raise an :class:`InputError` for a model that there is not, for none, and for one that is there twice."""
    known = [*MODELS, *serialisation.named()]
    for model in models:
        if model not in known:
            raise unknown("model", model, known)
    if not models or len(set(models)) < len(models):
        raise InputError(f"--models names each model once, with commas between: got {','.join(models) or 'none'}")


def train(data: str, model: str, budget: str, folder: Path) -> int:
    """Train a model for a time in a process of its own, or go on with it; returns that process's exit code, 0 if there is nothing to do."""
    if (folder / "recipe.yaml").is_file():
        run = Run(folder)
        newest = run.checkpoints.newest_whole()
        if newest is not None and newest.state["images"] >= run.recipe.train.images:
            return 0
    command = [
        sys.executable,
        "-m",
        "reverie",
        "train",
        *words(model),
        "--data",
        data,
        "--budget",
        budget,
        "--out",
        str(folder),
    ]
    with subprocess.Popen(command) as child:
        try:
            return child.wait()
        except KeyboardInterrupt:  # the child has heard it too, and saves
            return child.wait()


def words(model: str) -> list[str]:
    """What ``reverie train`` is told of a model; of a VQ-VAE that it is the tokenizer of the recipe ``maskgit``."""
    if model == "vqvae":
        space = serialisation.load(serialisation.find("maskgit")).task.space  # pyright: ignore[reportAttributeAccessIssue]
        return ["tile", *(f"--space.{f.name}={v}" for f in fields(space) if (v := getattr(space, f.name)) != f.default)]
    return [] if model == "diffusion" else [model]


def check_same(runs: Sequence[Run]) -> None:
    """Raise an :class:`InputError` unless the runs are of the same pictures."""
    first = runs[0].recipe.data
    for run in runs[1:]:
        data = run.recipe.data
        for key in ("name", "size", "channels", "contents"):
            a, b = getattr(first, key), getattr(data, key)
            if a != b and None not in (a, b):
                raise InputError(
                    f"only runs on the same pictures are compared: data.{key} is {a} of {runs[0].folder} and {b} of {run.folder}"
                )


def compared(run: Run, *, n: int, seeds: Sequence[int], judge: str | Path | None) -> Compared:
    """Measure a run, unless it was as it is now, and time it."""
    state = run.checkpoint.state
    evaluation = _kept(run, n, seeds) or measure(run, n=n, seeds=seeds, judge=judge)
    generator, held_out = run.generator(), sources.load(run.recipe, "test")
    bits, bound = _bits(generator, held_out)
    return Compared(
        run,
        evaluation,
        _rate(generator),
        sum(p.numel() for module in generator.modules().values() for p in module.parameters()),
        state["seconds"],
        state.get("memory"),
        bits,
        bound,
    )


def _kept(run: Run, n: int, seeds: Sequence[int]) -> Evaluation | None:
    """What was measured of the run's checkpoint before, as it would be measured now."""
    path = run.folder / EVALUATION
    try:
        found = Evaluation.load_all(path) if path.exists() else []
    except RunError:
        return None
    settings = run.generator().settings()
    for evaluation in found:
        first = evaluation.figures[0]
        same = evaluation.images == run.checkpoint.state["images"] and evaluation.drawn == settings
        if same and first.count == n and first.seeds == tuple(seeds):
            return evaluation
    return None


@torch.no_grad()
def _rate(generator: Generator) -> float:
    def drawn(n: int) -> float:
        known = generator.conditions.get("label")
        labels: Any = None if known is None else torch.arange(n) % known.classes  # pyright: ignore[reportAttributeAccessIssue]
        begun = time.perf_counter()
        generator.sample(n, None if labels is None else Cond(label=labels))
        return time.perf_counter() - begun

    drawn(1)
    n = max(FIRST, min(MOST, int(SECONDS / (drawn(FIRST) / FIRST))))
    return n / drawn(n)


@torch.no_grad()
def _bits(generator: Generator, held_out: ImageSet) -> tuple[float | None, bool]:
    """Bits per dimension of held-out pictures, and whether it is a bound from above, which a model may have as ``log_prob_bound``."""
    exact, bound = generator.log_prob, getattr(generator, "log_prob_bound", None)
    log_prob = exact or bound
    if log_prob is None:
        return None, False
    batch = held_out.batch(torch.linspace(0, len(held_out) - 1, min(HELD_OUT, len(held_out))).long())
    nats = log_prob(dequantise(batch.x, seed=0), batch.cond if generator.conditions else None)
    return float(bits_per_dimension(nats, generator.shape).mean()), exact is None
