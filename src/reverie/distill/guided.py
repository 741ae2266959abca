"""Guidance as an input: a network that is told the scale says at once what its teacher says in two evaluations (Meng et al., "On
distillation of guided diffusion models", CVPR 2023, stage 1).

    min E ω·‖x̂(x_t, w) − x̂ʷ(x_t)‖²,   x̂ʷ = x̂_∅ + w·(x̂_c − x̂_∅),   w uniform in [1, highest]

in our convention, where their w is one less. The error is taken in what the network predicts. It stays a denoiser: every solver draws
from it, and so do other methods that take one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from reverie import guide
from reverie.core.batch import Batch, Dataset
from reverie.core.call import Call
from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser, Wrapper
from reverie.core.draws import Draws
from reverie.core.estimate import Estimate
from reverie.core.schedules import Point
from reverie.core.task import Moment
from reverie.core.tensors import Scalar, onto
from reverie.core.times import TimeSampler
from reverie.distill.student import Distilling, Student

SCALE = "scale"
"""The condition by which a network is told the logarithm of the scale."""


class AtScale(Wrapper):
    """A denoiser whose network is told a scale: see :func:`at_scale`."""

    def __init__(self, base: Denoiser, scale: Scalar, below: float | None = None) -> None:
        super().__init__(base)
        self.scale, self.below = scale, below
        self.conditions = {name: spec for name, spec in base.conditions.items() if name != SCALE}

    @property
    def guidance(self) -> float:
        return float(self.scale.max()) if isinstance(self.scale, Tensor) else self.scale

    def __call__(self, x: Tensor, t: Point | Scalar, cond: Cond | None = None, call: Call | None = None) -> Estimate:
        point = self.point(t, x)
        told = torch.as_tensor(self.scale, dtype=x.dtype, device=x.device).log().expand(len(x))
        if self.below is not None:
            inside = torch.as_tensor(point.logsnr, device=x.device).flatten().expand(len(x)) <= self.below
            told = torch.where(inside, told, 0.0)
        entries = {name: cond[name] for name in cond or ()}  # pyright: ignore[reportOptionalSubscript]
        return self.base(x, point, Cond(**entries, **{SCALE: told[:, None]}), call)


def at_scale(denoise: Denoiser, scale: Scalar, below: float | None = None) -> Denoiser:
    """The model whose guidance is an input, at one scale.

    Args:
        denoise: what a run of the task "guided" gives.
        scale: of guidance, 1 is the model without; or one a sample (B,).
        below: guide only where the logsnr is below this.
    """
    return AtScale(denoise, scale, below)


class Guided(Distilling):
    """Learn what guidance makes of the teacher, at all scales at once.

    Args:
        model: whose network is told :data:`SCALE`, and its teacher.
        times: the density of t.
        highest: scale.
        held_out: data to show beside samples.
    """

    def __init__(
        self, model: Student, times: TimeSampler, highest: float = 5.0, *, held_out: Dataset | None = None
    ) -> None:
        super().__init__(model, held_out)
        self.times, self.highest = times, highest

    def loss(self, player: str, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        x0, noise = self.pair(batch, rng)
        t = self.times(rng.even("time"))
        x, point = self.noised(x0, noise, t), self.model.schedule.point(t).align(x0)
        scale = onto(1.0 + (self.highest - 1.0) * rng.uniform("scale"), x0)
        with torch.no_grad():
            goal = guide.cfg(self.model.teacher, scale)(x, point, batch.cond)
        own = at_scale(self.model.denoise, scale)(x, point, batch.cond)
        return {"mse": (own.out - goal.out).float().square().flatten(1).mean(1)}

    def preview(self) -> None:
        return None
