"""Latent consistency distillation into an adapter: Luo et al. 2023, "Latent consistency models" (arXiv:2310.04378, algorithm 1), as in
"LCM-LoRA" (arXiv:2311.05556).

The base, guided at a scale w of each sample's own, says where the augmented flow goes (their eq. 12 to 16): one step of DDIM from
t_{n+k} to t_n. The student, the base with a residual of low rank, is held to one x0 at both ends,

    E d(f(x, t_{n+k}, c), sg f(ψ(x, t_{n+k}, t_n, w, c), t_n, c)),   d(a, b) = mean √((a − b)² + h²) − h.

f is the estimate of x0. Their c_skip and c_out, which hold f(x, 0) = x, are 0 and 1 to 1e-5 on the grid; the estimate is x by itself at
σ = 0. Their w is one less than ours. An adapter has no input for it, so it learns the mean over the range.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from reverie import guide
from reverie.adapt.adapter import Adapter, fingerprint
from reverie.adapt.applying import apply, unmerged
from reverie.adapt.config import METHODS
from reverie.core.batch import Batch
from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser, NetDenoiser
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.flow_map import NetFlowMap
from reverie.core.task import Moment, Player, Task
from reverie.core.tensors import combine, onto
from reverie.learn.loop import train

HUBER = 0.001
"""h of the error."""
PART = 16
"""Pictures that are coded together."""


class LatentConsistency(Task):
    """What trains a student on codes.

    Args:
        student: any flow map to clean data of a network.
        teacher: says where the flow goes, unguided.
        scales: the least and the greatest w.
        intervals: of the grid, uniform in time: 50 skip 20 entries of a table of 1000.
        player: whose weights are stepped.
    """

    def __init__(
        self, student: NetFlowMap, teacher: Denoiser, scales: tuple[float, float], intervals: int, player: Player
    ) -> None:
        self.student, self.teacher, self.scales, self.intervals = student, teacher, scales, intervals
        self.players = {"adapter": player}

    def loss(self, player: str, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        n, (low, high) = 1.0 + (rng.even("time") * self.intervals).floor(), self.scales
        path, x0, cond = self.student.schedule, batch.x, batch.cond
        at, to = (path.point(m / self.intervals).align(x0) for m in (n, n - 1.0))
        x = combine((at.alpha, at.sigma), (x0, onto(rng.normal("noise", x0.shape[1:]), x0)))
        with torch.no_grad():
            scale = onto(low + (high - low) * rng.uniform("scale"), x0)
            guided = self.teacher if cond is None else guide.cfg(self.teacher, scale)
            moved = guided(x, at, cond).linear(to.alpha, to.sigma)
            goal = self.student.denoise(moved, to, cond).x0
        error = (self.student.denoise(x, at, cond).x0 - goal).float()
        return {"consistency": ((error.square() + HUBER**2).sqrt() - HUBER).flatten(1).mean(1)}


def lcm_lora(
    denoise: NetDenoiser,
    images: Tensor,
    cond: Cond | None = None,
    *,
    scales: tuple[float, float] = (6.0, 16.0),
    intervals: int = 50,
    rank: int = 64,
    layers: str = "",
    steps: int = 1_000,
    rate: float = 1e-4,
    batch: int = 4,
    seed: int = 0,
) -> Adapter:
    """An adapter with which a model draws in one to four steps, through :func:`leaping`; the model itself stays as it is.

    Args:
        denoise: the base, unguided.
        images: (N, C, H, W) in [−1, 1], such as it was trained on.
        cond: what it is told of each, or of all: ``denoise.conditioner(texts)``.
        scales: the least and the greatest scale of guidance that is distilled; equal ones for one. Guidance 1 is the model as it is.
        intervals: of the flow, each of which is held together; uniform in time.
        rank: of the residuals, whose strength is 1.
        layers: which linear layers and convolutions, a regular expression on their paths; '' for all.
        steps: of the optimizer.
        rate: of learning.
        batch: pictures a step.
        seed: of all randomness.

    Returns:
        An adapter, which :func:`reverie.adapt.write` writes in the formats of peft and kohya.

    Raises:
        InputError: for settings that do not fit, or pictures that are none of the model's.
    """
    if images.ndim != 4 or not len(images) or not images.isfinite().all():
        raise InputError(f"pictures are (N, C, H, W) in [−1, 1] and finite: got shape {tuple(images.shape)}")
    if not 1.0 <= scales[0] <= scales[1]:
        raise InputError(f"scales are the least and the greatest of guidance, at least 1: got {scales}")
    if intervals < 2:
        raise InputError(f"intervals are at least 2: got {intervals}")
    if (cond is None) != (not denoise.conditions):
        takes = ", ".join(denoise.conditions) or "nothing"
        raise InputError(f"cond= is what the model is told of each picture, it takes {takes}: got {cond}")
    told = None if cond is None else cond.expand(len(images))
    denoise.net.eval().requires_grad_(False)
    with torch.no_grad():
        codes = torch.cat([denoise.space.encode(part.to(denoise.device)) for part in images.split(PART)])
    config = METHODS["lora"](rank=rank, layers=layers)  # pyright: ignore[reportCallIssue]
    adapter = Adapter("lcm", fingerprint(denoise.net), config.changes(denoise.net, seed))
    student = NetFlowMap(unmerged(denoise, adapter))
    task = LatentConsistency(student, denoise, scales, intervals, Player(adapter, average=False))
    usual, seen = config.training(), steps * batch
    how = replace(
        usual, images=seen, batch=batch, lr=rate, warmup=min(usual.warmup, seen // 4), sample_every=10**9, device=str(denoise.device)
    )  # fmt: skip

    def feed(start: int, count: int) -> Batch:
        rows = torch.arange(start, start + count) % len(codes)
        return Batch(codes[rows], None if told is None else told.index(rows).to(codes.device))

    with tempfile.TemporaryDirectory() as folder:
        if train(task, feed, how, Path(folder), seed=seed) < how.images:
            raise KeyboardInterrupt
    return adapter.requires_grad_(False)


def leaping(denoise: NetDenoiser, *adapters: Adapter) -> NetFlowMap:
    """The model with adapters of :func:`lcm_lora` as a flow map: ``rv.sample(leaping(model, fast), cond=cond, steps=4)``, unguided.

    Args:
        denoise: the base, or the base with other adapters: styles and speed add up.
        adapters: of its weights.

    Raises:
        InputError: as :func:`reverie.adapt.apply`.
    """
    return NetFlowMap(apply(denoise, *adapters))
