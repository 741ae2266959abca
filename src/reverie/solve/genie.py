"""GENIE: the second derivative of the flow, from a Jacobian-vector product or from a head that has learned it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from reverie.core.errors import InputError
from reverie.core.estimate import Estimate
from reverie.core.jvp import jvp
from reverie.core.predictions import Pair
from reverie.core.schedules import HostPoint, Point, Schedule
from reverie.core.tensors import combine
from reverie.solve.plan import Bound, PlanStep, Row, State, TableSolver, first_order
from reverie.solve.variables import VARIABLES

Head = Callable[[Estimate], Tensor]
"""An estimate (B, …) -> dε/dρ along the flow there, of the same shape."""


class Taylor(NamedTuple):
    """``x_u = c·x + M_u(Δμ·y + ½Δμ²·dy/dμ)``: the first-order row and, of the second derivative, the path it is taken along."""

    row: Row
    schedule: Schedule
    second: float

    @property
    def point(self):
        return self.row.point


@dataclass(frozen=True)
class GENIE(TableSolver):
    """Second-order Taylor steps (Dockhorn et al. 2022, eq. 9): with ``d(x/M) = y dμ``, ``x_u/M_u = x/M + Δμ·y + ½Δμ²·dy/dμ``; order 2.

    The total derivative dy/dμ along the flow is one Jacobian-vector product of the denoiser in (x, t), exact, and counts as a second
    evaluation; a ``head`` that has learned it (:mod:`reverie.diffusion.genie`) costs none. The move to clean data is of order 1.

    Args:
        variable: "eps" is the paper's (ε in ρ = σ/α), "straight" ε − x0 in τ = σ/(α+σ), which a move from pure noise always takes.
        head: in place of the product, in the variable "eps"; a move from pure noise is then of order 1.
    """

    variable: Literal["eps", "straight"] = "straight"
    head: Head | None = None

    def __post_init__(self) -> None:
        if self.head is not None and self.variable != "eps":
            raise InputError('a head gives the derivative of eps: GENIE("eps", head)')

    def rows(self, schedule: Schedule, points: Sequence[HostPoint]) -> list[PlanStep]:
        steps = []
        for at, to in pairwise(points):
            name = "straight" if at.alpha == 0.0 else self.variable
            step = first_order(at, to, VARIABLES[name].pair, to.alpha, to.sigma)
            if to.sigma > 0.0 and not (self.head is not None and at.alpha == 0.0):
                mu, rate = (_tau, _tau_rate) if name == "straight" else (_rho, rho_rate)
                second = 0.5 * VARIABLES[name].scale(to) * (mu(to) - mu(at)) ** 2 / rate(at)
                step = step._replace(row=Taylor(step.row, schedule, second), evaluations=1 if self.head else 2)
            steps.append(step)
        return steps

    def step(self, denoise: Bound, state: State, row: Row | Taylor, noise: Sequence[Tensor]) -> State:
        if isinstance(row, Row):
            return super().step(denoise, state, row, noise)
        first, point = row.row, row.row.point
        assert point is not None
        estimate = denoise(state.x, point)
        y = estimate.linear(*first.pair)
        if self.head is not None:
            slope = self.head(estimate) * rho_rate(point)
        else:
            t = torch.tensor(point.t, dtype=state.x.dtype, device=state.x.device)
            slope = derivative(denoise, row.schedule, state.x, t, estimate.velocity, first.pair)
        return State(combine((first.c, *first.w, row.second), (state.x, y, slope)), state.history)


def derivative(denoise: Bound, schedule: Schedule, x: Tensor, t: Tensor, velocity: Tensor, pair: Pair) -> Tensor:
    """d(p·x0 + q·ε)/dt along the flow, whose ``velocity`` is dx/dt: (B, …), at a time of shape () or (B,)."""

    def along(x: Tensor, t: Tensor) -> Tensor:
        return denoise(x, schedule.point(t)).linear(*pair)

    return jvp(along, (x, t), (velocity, torch.ones_like(t)))[1]


def _tau(p: HostPoint) -> float:
    return p.tau


def _rho(p: HostPoint) -> float:
    return p.rho


def _tau_rate(p: HostPoint) -> float:
    """dτ/dt."""
    return (p.alpha * p.d_sigma - p.sigma * p.d_alpha) / (p.alpha + p.sigma) ** 2


def rho_rate(p: Point) -> Any:
    """dρ/dt."""
    return (p.alpha * p.d_sigma - p.sigma * p.d_alpha) / p.alpha**2
