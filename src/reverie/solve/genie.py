"""GENIE: the second derivative of the flow from a Jacobian-vector product."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from reverie.core.jvp import jvp
from reverie.core.schedules import HostPoint, Schedule
from reverie.core.tensors import combine
from reverie.solve.plan import Bound, PlanStep, Row, State, TableSolver, first_order
from reverie.solve.variables import VARIABLES


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

    The total derivative dy/dμ along the flow is one Jacobian-vector product of the denoiser in (x, t); the paper distils it into a head,
    here it is exact, and counts as a second evaluation. ``variable`` "eps" is the paper's (ε in ρ = σ/α), "straight" ε − x0 in
    τ = σ/(α+σ), which a move from pure noise always takes. The move to clean data is of order 1.
    """

    variable: Literal["eps", "straight"] = "straight"

    def rows(self, schedule: Schedule, points: Sequence[HostPoint]) -> list[PlanStep]:
        steps = []
        for at, to in pairwise(points):
            name = "straight" if at.alpha == 0.0 else self.variable
            step = first_order(at, to, VARIABLES[name].pair, to.alpha, to.sigma)
            if to.sigma > 0.0:
                mu, rate = (_tau, _tau_rate) if name == "straight" else (_rho, _rho_rate)
                second = 0.5 * VARIABLES[name].scale(to) * (mu(to) - mu(at)) ** 2 / rate(at)
                step = step._replace(row=Taylor(step.row, schedule, second), evaluations=2)
            steps.append(step)
        return steps

    def step(self, denoise: Bound, state: State, row: Row | Taylor, noise: Sequence[Tensor]) -> State:
        if isinstance(row, Row):
            return super().step(denoise, state, row, noise)
        first, point = row.row, row.row.point
        assert point is not None
        estimate = denoise(state.x, point)
        y = estimate.linear(*first.pair)

        def along(x: Tensor, t: Tensor) -> Tensor:
            return denoise(x, row.schedule.point(t)).linear(*first.pair)

        t = torch.tensor(point.t, dtype=state.x.dtype, device=state.x.device)
        _, slope = jvp(along, (state.x, t), (estimate.velocity, torch.ones_like(t)))
        return State(combine((first.c, *first.w, row.second), (state.x, y, slope)), state.history)


def _tau(p: HostPoint) -> float:
    return p.tau


def _rho(p: HostPoint) -> float:
    return p.rho


def _tau_rate(p: HostPoint) -> float:
    """dτ/dt."""
    return (p.alpha * p.d_sigma - p.sigma * p.d_alpha) / (p.alpha + p.sigma) ** 2


def _rho_rate(p: HostPoint) -> float:
    """dρ/dt."""
    return (p.alpha * p.d_sigma - p.sigma * p.d_alpha) / p.alpha**2
