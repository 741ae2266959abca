"""Closed-form models whose null can be replaced, and models re-expressed as another kind."""

import torch
from torch import Tensor

from reverie.core.condition import Cond, Vector, entry_of
from reverie.core.denoiser import Denoiser, Wrapper
from reverie.core.estimate import Estimate
from reverie.core.predictions import KINDS
from reverie.core.schedules import VP, Schedule
from reverie.core.space import Identity

F64 = torch.float64
MEANS = torch.tensor([[-1.0, 0.6, 0.0], [0.9, -0.5, 0.4], [0.2, 1.1, -0.8]], dtype=F64)
WIDTHS = torch.tensor([0.3, 0.4, 0.5], dtype=F64)


class Soft(Denoiser):
    """The exact denoiser of N(μ_k, s_k²) weighted by e^(v_k), v the condition "vector", by default 0: a class is a large number there."""

    def __init__(self, schedule: Schedule = VP(), shape: tuple[int, ...] = (3,)) -> None:
        self.schedule, self.space, self.shape = schedule, Identity(), shape
        self.conditions = {"vector": Vector(len(MEANS))}
        self.means = MEANS if shape == (3,) else torch.stack([picture(i, shape) for i in range(3)])

    @property
    def dtype(self) -> torch.dtype:
        return F64

    def __call__(self, x, t, cond=None) -> Estimate:
        point = self.point(t, x)
        told = entry_of(cond, "vector", torch.zeros(3, dtype=F64), len(x)).value
        flat, means = x.flatten(1), self.means.flatten(1)
        residual = flat[:, None] - point.alpha * means
        variance = (point.alpha**2 * WIDTHS**2 + point.sigma**2)[:, None]
        log = told - 0.5 * (residual**2 / variance + variance.log()).sum(-1)
        gain = (point.sigma - point.alpha * WIDTHS[:, None] ** 2) / variance
        out = torch.einsum("bk,bkd->bd", log.softmax(1), gain * residual - means)
        return Estimate(x, out.reshape(x.shape), KINDS["straight"](point), point)


def picture(i: int, shape: tuple[int, ...]) -> Tensor:
    """A smooth picture of class i."""
    c, h, w = shape
    y, x = torch.meshgrid(torch.arange(h, dtype=F64), torch.arange(w, dtype=F64), indexing="ij")
    wave = torch.sin(0.9 * (i + 1) * y + 0.3 * i) * torch.cos(0.7 * (3 - i) * x)
    return 0.7 * torch.stack([wave * (1 - 0.2 * j) for j in range(c)])


def word(i: int) -> Cond:
    return Cond(vector=40.0 * torch.eye(3, dtype=F64)[i : i + 1])


def pictures(n: int = 4, i: int = 0) -> Tensor:
    """Draws of class i, (n, 3)."""
    return MEANS[i] + WIDTHS[i] * torch.randn(n, 3, dtype=F64, generator=torch.Generator().manual_seed(1))


class As(Wrapper):
    """The same function in another prediction kind."""

    def __init__(self, base: Denoiser, kind: str) -> None:
        super().__init__(base)
        self.kind = KINDS[kind]

    def __call__(self, x, t, cond=None, call=None) -> Estimate:
        estimate = self.base(x, t, cond, call)
        pair = self.kind(estimate.point)
        return Estimate(x, estimate.linear(*pair), pair, estimate.point, features=estimate.features)


def rms(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().mean().sqrt())
