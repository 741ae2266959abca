"""Closed-form problems that every solver is judged on, and the tight reference each is judged against."""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from reverie.core.denoiser import Denoiser
from reverie.core.estimate import Estimate
from reverie.core.exact import GaussianMixture
from reverie.core.predictions import KINDS
from reverie.core.schedules import Flow, HostPoint, Schedule
from reverie.core.space import Identity
from reverie.solve.iterating import iterate
from reverie.solve.plan import Walk, plain


def mixture(dtype: torch.dtype = torch.float64) -> GaussianMixture:
    """Four components in the plane with different full covariances: smooth, not linear."""
    means = torch.tensor([[1.2, 0.5], [-1.0, 0.8], [0.2, -1.3], [-0.6, -0.4]], dtype=dtype)
    a = torch.tensor([[[0.30, 0.10], [0.10, 0.20]], [[0.15, -0.05], [-0.05, 0.25]]], dtype=dtype)
    return GaussianMixture(torch.tensor([0.3, 0.3, 0.25, 0.15], dtype=dtype), means, torch.cat([a, a.flip(0)]))


def flow(denoise: Denoiser, x: Tensor, start: HostPoint, end: HostPoint) -> Tensor:
    """The probability flow from ``start`` to ``end`` by DOP853: all paths are one ODE, so on the straight one, finite at both ends."""
    straight = denoise.under(Flow())

    def slope(t: float, y: np.ndarray) -> np.ndarray:
        return (
            straight(torch.from_numpy(y).reshape(x.shape), Flow()._point(torch.tensor(t).double()))
            .velocity.flatten()
            .numpy()
        )

    y0 = (x / (start.alpha + start.sigma)).flatten().numpy()
    solution = solve_ivp(slope, (start.tau, end.tau), y0, method="DOP853", rtol=1e-12, atol=1e-12)
    return torch.from_numpy(solution.y[:, -1]).reshape(x.shape) * (end.alpha + end.sigma)


@lru_cache
def reference(low: float, high: float) -> tuple[Tensor, Tensor]:
    """Marginal samples of the mixture at λ = low and where the flow takes them at λ = high, on the straight path."""
    start, end = Flow().at(low), Flow().at(high)
    x = start.alpha * mixture().sample(16, torch.Generator().manual_seed(1))
    x = x + start.sigma * torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(2))
    return x, flow(mixture().denoiser(Flow()), x, start, end)


def between(schedule: Schedule, low: float, high: float, steps: int) -> tuple[HostPoint, ...]:
    """Points uniform in λ between two finite λ."""
    return tuple(schedule.at(float(v)) for v in np.linspace(low, high, steps + 1))


class Linear(Denoiser):
    """Data N(m, s²), each coordinate of the state the coefficient of one source of randomness: coordinate 0 of the start, 1 of the
    constant 1, and one for each draw. Running a solver on this with :class:`Basis` noise gives its mean and variance exactly."""

    def __init__(self, schedule: Schedule, mean: float, std: float, width: int) -> None:
        self.schedule, self.mean, self.std, self.shape = schedule, mean, std, (width,)
        self.conditions, self.space = {}, Identity()

    def __call__(self, x, t, cond=None) -> Estimate:
        point = self.point(t, x)
        variance = point.alpha**2 * self.std**2 + point.sigma**2
        one = torch.zeros_like(x)
        one[:, 1] = self.mean
        gain = (point.sigma - point.alpha * self.std**2) / variance
        out = gain * (x - point.alpha * one) - one
        return Estimate(x, out, KINDS["straight"](point), point)


class Basis:
    """A tape whose draws are unit vectors: each is its own coordinate."""

    def __init__(self) -> None:
        self.count = 0

    def draw(self, stream: str, number: int, shape: Sequence[int], span=None) -> Tensor:
        if stream == "init":
            return torch.zeros(1, *shape, dtype=torch.float64)
        z = torch.zeros(1, *shape, dtype=torch.float64)
        z[0, 2 + self.count] = 1.0
        self.count += 1
        return z


def moments(solver, schedule: Schedule, walk: Walk, mean: float, std: float, start: tuple[float, float] | None = None):
    """Exact mean and variance at the end of ``walk`` for data N(mean, std²), from ``start`` = (mean, variance) or the exact marginal."""
    point = walk[0].at
    m, v = (point.alpha * mean, point.alpha**2 * std**2 + point.sigma**2) if start is None else start
    x = torch.zeros(1, 2 + 2 * len(walk), dtype=torch.float64)
    x[0, 0], x[0, 1] = v**0.5, m
    denoise = Linear(schedule, mean, std, x.shape[1])
    *_, last = iterate(denoise, x=x, solver=solver, walk=walk, tape=Basis())
    c = last.x[0]
    return c[1].item(), (c[0] ** 2 + (c[2:] ** 2).sum()).item()


def slopes(errors: Sequence[float]) -> list[float]:
    return [math.log2(a / b) for a, b in pairwise(errors)]


@pytest.fixture(scope="session")
def problem() -> SimpleNamespace:
    """The tools above, for test files to use without importing each other."""

    def errors(solver, schedule: Schedule, counts: Sequence[int], low: float = -1.5, high: float = 2.0) -> list[float]:
        denoise = mixture().denoiser(schedule)
        start, end = schedule.at(low), schedule.at(high)
        x, exact = reference(low, high)
        x, exact = x * (start.alpha + start.sigma), exact * (end.alpha + end.sigma)
        result = []
        for n in counts:
            *_, last = iterate(denoise, x=x, solver=solver, walk=plain(between(schedule, low, high, n)))
            result.append((last.x - exact).square().mean().sqrt().item())
        return result

    def weak(solver, schedule: Schedule, counts: Sequence[int], low: float = -1.5, high: float = 2.0) -> list[float]:
        end = schedule.at(high)
        exact = end.alpha * 0.4, end.alpha**2 * 0.25 + end.sigma**2
        result = []
        for n in counts:
            m, v = moments(solver, schedule, plain(between(schedule, low, high, n)), 0.4, 0.5)
            result.append(abs(v - exact[1]) / exact[1] + abs(m - exact[0]))
        return result

    tools: dict[str, Callable] = {
        "mixture": mixture,
        "flow": flow,
        "between": between,
        "moments": moments,
        "slopes": slopes,
    }
    return SimpleNamespace(errors=errors, weak=weak, Basis=Basis, Linear=Linear, **tools)
