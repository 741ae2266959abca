"""One-step solvers: each move is ``x_u = a·x0 + b·ε + s·z`` with the estimates at its start."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from reverie.core.errors import InputError
from reverie.core.schedules import HostPoint, Point, Schedule
from reverie.core.tensors import combine
from reverie.solve.plan import Bound, PlanStep, Row, State, TableSolver, first_order
from reverie.solve.stochastic import Stochastic

STRAIGHT = (-1.0, 1.0)
"""The variable ε − x0: defined at every point of every path."""


@dataclass(frozen=True)
class DDIM(TableSolver):
    """``x_u = α_u·x0 + √(σ_u² − q²)·ε + q·z``, q² = η²σ_u²(1 − e^(−2h)) (Song et al. 2021, eq. 12 and 16).

    η = 0 is the first-order exponential integrator of the probability flow on every path; η = 1 is ancestral sampling with
    the small variance.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        Stochastic(self.eta, "ddim")

    def rows(self, schedule: Schedule, points: Sequence[HostPoint]) -> list[PlanStep]:
        policy, steps = Stochastic(self.eta, "ddim"), []
        for at, to in pairwise(points):
            keep, fresh = policy.mix(at, to)
            steps.append(first_order(at, to, STRAIGHT, to.alpha, to.sigma * keep, to.sigma * fresh))
        return steps


def variance_ratio(at: HostPoint, to: HostPoint) -> float:
    """``1 − (α_t·σ_u/(α_u·σ_t))²`` = 1 − e^(−2h): the part of the noise's variance that the reverse step t→u replaces."""
    return Stochastic(1.0).mix(at, to).fresh ** 2


class Learned(NamedTuple):
    """A row whose noise level the network chooses between two, given as log variances."""

    row: Row
    small: float
    large: float

    @property
    def point(self) -> Point | None:
        return self.row.point


@dataclass(frozen=True)
class DDPM(TableSolver):
    """Ancestral sampling (Ho et al. 2020, eq. 6-7): ``x_u = α_ts(σ_u²/σ_t²)·x + α_u(σ²_ts/σ_t²)·x0 + √v·z``, the last move without noise.

    With α_ts = α_t/α_u and σ²_ts = σ_t² − α_ts²σ_u², ``variance`` "small" is v = σ²_ts·σ_u²/σ_t² (exact for point-mass data) and "large"
    v = σ²_ts (exact for unit Gaussian data). "learned" interpolates their logarithms by the network's own fraction (Nichol & Dhariwal
    2021, eq. 15), for a denoiser whose estimates have a ``variance``.
    """

    variance: Literal["small", "large", "learned"] = "small"

    def rows(self, schedule: Schedule, points: Sequence[HostPoint]) -> list[PlanStep]:
        steps = []
        for at, to in pairwise(points):
            keep, fresh = Stochastic(1.0).mix(at, to)
            small, large = fresh * to.sigma, fresh * at.sigma
            s = 0.0 if to.sigma == 0.0 else large if self.variance == "large" else small
            step = first_order(at, to, STRAIGHT, to.alpha, to.sigma * keep, s)  # the mean of the posterior, as in DDIM
            if self.variance == "learned" and s:
                step = step._replace(row=Learned(step.row, 2.0 * math.log(small), 2.0 * math.log(large)))
            steps.append(step)
        return steps

    def step(self, denoise: Bound, state: State, row: Row | Learned, noise: Sequence[Tensor]) -> State:
        if isinstance(row, Row):
            return super().step(denoise, state, row, noise)
        estimate = denoise(state.x, row.row.point)  # pyright: ignore[reportArgumentType]
        if estimate.variance is None:
            raise InputError(
                "DDPM(variance='learned') needs a network that learned its variance: use 'small' or 'large'"
            )
        mean = combine((row.row.c, *row.row.w), (state.x, estimate.linear(*row.row.pair)))
        log_std = 0.5 * (row.small + estimate.variance * (row.large - row.small))
        return State(mean + torch.exp(log_std) * noise[0], state.history)
