"""Reflow: a flow learned again on its own pairs of noise and sample is straighter (Liu, Gong & Liu 2023, "Flow straight and fast").

A model's flow carries each ε to one x0. Denoising learns ``ε − x0`` at points between independent ε and x0, whose lines cross, so that the
flow bends; the lines of the flow's own pairs hardly do, and the flow learned on those, of the same marginals, is nearly straight: Euler's
method follows it in few steps, at best in one (section 2.2, algorithm 1). In z = x/(α + σ) and τ = σ/(α + σ) every path is the paper's
straight one (its t is 1 − τ).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reverie.core import files
from reverie.core.batch import Batch, Dataset, DataSpec
from reverie.core.condition import Cond, Text
from reverie.core.conditioner import conditioner_of
from reverie.core.denoiser import Denoiser, NetDenoiser
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.files import inside
from reverie.core.noise import Tape, sample_seeds
from reverie.core.predictions import Kind
from reverie.core.progress import Progress
from reverie.core.schedules import HostPoint, Schedule
from reverie.core.task import Given, Preview
from reverie.data import TensorSet, captions, order
from reverie.diffusion.denoising import Denoising
from reverie.diffusion.teacher import ReflowConfig
from reverie.diffusion.texts import called
from reverie.learn.runtime import Runtime
from reverie.solve import DDIM, Solver, iterate, sample
from reverie.solve.plan import plain

HELD_OUT = 512
"""Pairs that training validates on, or as many as it learns from."""
PART = 500
"""Pairs that are made and kept together."""
COLUMNS = 8
"""Pairs that training shows."""
FOLDER = "pairs"
"""Where a run keeps them."""
CAPTIONS = "captions.json"
"""What is said of each, beside them."""


@dataclass(frozen=True)
class EvenTau:
    """Uniform in τ = σ/(α + σ), the paper's density of t. What a path does not reach counts at its end."""

    schedule: Schedule

    def __call__(self, u: Tensor) -> Tensor:
        lam = -torch.logit(u)
        return self.schedule.t_of_lam(lam.clamp(self.schedule.lam(1.0), self.schedule.lam(0.0))).clamp(0.0, 1.0)


class Reflow(Denoising):
    """The denoising task in which each x0 meets the ε that it was made of, at times even in τ.

    Batches hold x0 in the diffused space as ``x``, and ε as ``extra["noise"]``: what :func:`pairs` gives.

    Args:
        denoise: the network on its path, with the teacher's weights to begin with.
        drop, loss_kind: as of :class:`~reverie.diffusion.Denoising`.
        held_out: pairs to validate on.
    """

    def __init__(
        self,
        denoise: NetDenoiser,
        *,
        drop: float = 0.1,
        loss_kind: str | Kind | None = None,
        held_out: Batch | None = None,
    ) -> None:
        super().__init__(denoise, EvenTau(denoise.schedule), drop=drop, loss_kind=loss_kind, held_out=held_out)

    def batch_errors(self, batch: Batch, t: Tensor, rng: Draws, cond: Cond | None) -> Tensor:
        return self.weighted(batch.x, batch.extra["noise"], t, cond)

    def told(self, batch: Batch) -> Cond | None:
        """What a solver tells the model of a batch."""
        return batch.cond if self.denoise.told is None or batch.cond is None else self.denoise.told(batch.cond)

    def validate(self) -> dict[str, float | list[float]]:
        """As of denoising, on held-out pairs; and the ``straightness`` of the flow from their noise."""
        if self.held_out is None:
            return {}
        some = self.held_out.to(self.denoise.device)
        return {**super().validate(), "straightness": straightness(self.denoise, some.extra["noise"], self.told(some))}

    def preview(self) -> Preview | None:
        """Held-out samples of the teacher, and below each what one step of Euler's method makes of its noise."""
        if self.held_out is None:
            return None
        some = self.held_out.index(slice(COLUMNS)).to(self.denoise.device)
        x0 = self.denoise.space.decode(some.x)
        return Preview(torch.cat([x0, one_step(self.denoise, some.extra["noise"], self.told(some))]).cpu(), len(x0))


def even_walk(schedule: Schedule, steps: int) -> tuple[HostPoint, ...]:
    """Points even in τ from the noise end of the path to clean data: along them, DDIM is Euler's method on the straight path."""
    start = schedule.point(1.0)
    inner = [start.tau * (1.0 - k / steps) for k in range(1, steps)]
    return (
        start,
        *(schedule.at(float(torch.logit(torch.tensor(1.0 - tau, dtype=torch.float64)))) for tau in inner),
        schedule.clean(),
    )


def one_step(denoise: Denoiser, noise: Tensor, cond: Cond | None = None) -> Tensor:
    """What a single step of Euler's method makes of ε, (B, …) -> (B, …) data."""
    points = even_walk(denoise.schedule, 1)
    x = noise * points[0].sigma
    return sample(denoise, cond=cond, solver=DDIM(), x=x, walk=plain(points), progress="", scale=1.0)


@torch.no_grad()
def straightness(denoise: Denoiser, noise: Tensor, cond: Cond | None = None, steps: int = 20) -> float:
    """``S = ∫ E‖(z₀ − z₁) + dz/dτ‖² dτ`` along the model's flow from ε to its sample: 0 if and only if that is straight (section 2.2).

    By Euler's method, to whose steps the displacement z₁ − z₀ is the mean of the velocities: S is their variance, summed over dimensions.

    Args:
        denoise: any model, on any path.
        noise: ε, (B, …) in the diffused space.
        cond: of the samples.
        steps: of the integral, even in τ.
    """
    points = even_walk(denoise.schedule, steps)
    nodes = iterate(denoise, cond=cond, solver=DDIM(), x=noise * points[0].sigma, walk=plain(points))
    velocities = torch.stack([node.estimate.linear(-1.0, 1.0).flatten(1).float() for node in nodes])
    return float(velocities.var(0, unbiased=False).sum(1).mean())


@torch.no_grad()
def pairs(
    denoise: Denoiser,
    n: int,
    folder: Path,
    labels: Tensor | None = None,
    texts: Sequence[str] | None = None,
    *,
    seed: int = 0,
    solver: Solver | str = "dpmpp3",
    steps: int = 50,
) -> TensorSet:
    """``n`` pairs of noise and the sample that a deterministic solver makes of it: ``x`` in the diffused space, ``extra["noise"]``.

    Pair i is the sample i of the seed. Pairs are kept in ``folder``, 500 a file; what is there already is not made again.

    Args:
        denoise: any model, guided or not.
        n: how many.
        folder: where they are kept.
        labels: the class of each, (n,), for a model of classes.
        texts: the caption of each, for a model of captions.
        seed: of the noise.
        solver, steps: as of :func:`reverie.sample`.

    Raises:
        InputError: when the folder holds other pairs.
        RunError: when they cannot be written, or a file is damaged.
    """
    with Progress("making pairs", n, "pairs") as bar:
        for rows in _parts(n):
            some = None if labels is None else labels[rows.start : rows.stop]
            said = None if texts is None else texts[rows.start : rows.stop]
            path = inside(folder, _file(rows))
            about = {"what": "pairs", "count": len(rows), "seed": seed, "solver": str(solver), "steps": steps}
            if not path.exists():
                files.write_tensors(path, _part(denoise, rows, some, said, seed, solver, steps), about)
            elif (there := files.read_about(path)) != about:
                raise InputError(
                    f"{path} holds other pairs, {there} and not {about}: remove them, or take another folder"
                )
            bar.advance(len(rows))
    return read(folder, n)


def read(folder: Path, n: int, classes: Sequence[str] = ()) -> TensorSet:
    """The ``n`` pairs that :func:`pairs` left in a folder.

    Raises:
        RunError: when a file is missing or damaged.
    """
    parts = [files.read_tensors(folder / _file(rows)) for rows in _parts(n)]
    whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    infinite = (-torch.inf, torch.inf)
    return TensorSet(whole["x"], whole.get("labels"), {"noise": whole["noise"]}, classes, "pairs", infinite)


def _parts(n: int) -> list[range]:
    return [range(start, min(start + PART, n)) for start in range(0, n, PART)]


def _file(rows: range) -> str:
    return f"pairs-{rows.start:08d}.safetensors"


def _part(
    denoise: Denoiser,
    rows: range,
    labels: Tensor | None,
    texts: Sequence[str] | None,
    seed: int,
    solver: Solver | str,
    steps: int,
) -> dict[str, Tensor]:
    addresses = sample_seeds([(seed, i) for i in rows], len(rows))
    told: dict[str, Any] = {} if labels is None else {"label": labels}
    told |= {} if texts is None else {"text": list(texts)}
    cond = None if not told else conditioner_of(denoise)(**told) if texts is not None else Cond(**told)
    *_, last = iterate(denoise, len(rows), cond, solver, steps, seed=addresses)
    pair = {"x": last.x.cpu(), "noise": Tape(addresses).draw("init", 0, denoise.shape)}
    return pair if labels is None else {**pair, "labels": labels}


def prepare_pairs(config: ReflowConfig, given: Given) -> None:
    """Make the teacher's pairs in the run's folder, with the labels or captions of the data in a shuffled order."""
    teacher = config.teaching(given.spec, given.seed, given.folder)
    teacher.net.eval().requires_grad_(False)
    teacher.to(Runtime.choose(given.device).device)
    n, labels = _count(config), None
    if "label" in teacher.conditions:
        known: Tensor = given.data.labels  # pyright: ignore[reportAttributeAccessIssue]
        labels = known[order.indices(given.seed, 0, n, len(known))]
    texts = None
    if teacher.told is not None and (found := captions.of(given.data)) is not None:
        said = [text for several in found.texts for text in several]
        texts = [said[i] for i in order.indices(given.seed, 0, n, len(said)).tolist()]
        files.write(inside(given.folder, FOLDER, CAPTIONS), json.dumps(texts))
    pairs(teacher, n, inside(given.folder, FOLDER), labels, texts, seed=given.seed, steps=config.steps)


def kept_pairs(config: ReflowConfig, folder: Path, spec: DataSpec) -> tuple[Dataset, Dataset]:
    """What :func:`prepare_pairs` left: to learn from, and to validate on.

    Raises:
        RunError: when a file is missing or damaged.
    """
    whole = read(folder / FOLDER, _count(config), spec.classes)
    said, text, texts, length = folder / FOLDER / CAPTIONS, spec.conditions.get("text"), None, 0
    if isinstance(text, Text) and said.is_file():
        texts, length = json.loads(said.read_text("utf-8")), text.length

    def some(rows: slice) -> Dataset:
        labels = None if whole.labels is None else whole.labels[rows]
        part = replace(whole, x=whole.x[rows], labels=labels, extra={"noise": whole.extra["noise"][rows]})
        if texts is None:
            return part
        found = captions.Captions([(text,) for text in texts[rows]], length)
        return called(config.denoising.text, found, part, folder)

    return some(slice(config.pairs)), some(slice(config.pairs, None))


def _count(config: ReflowConfig) -> int:
    return config.pairs + min(HELD_OUT, config.pairs)
