"""Exponential multistep solvers: a polynomial through the last predictions, integrated exactly against the path."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from reverie.core.errors import InputError
from reverie.core.schedules import HostPoint, Schedule
from reverie.solve.plan import PlanStep, Row, TableSolver, first_order
from reverie.solve.variables import CLOCKS, X0, weights


@dataclass(frozen=True)
class DPMpp(TableSolver):
    """DPM-Solver++ multistep (Lu et al. 2022b): predictions of x0, polynomial in λ; one evaluation a step.

    Order 2 is the paper's 2M (its midpoint form): with r = h_{−1}/h, ``x_u = (σ_u/σ_t)·x + α_u(1 − e^(−h))·(D + (D − D_{−1})/(2r))``.
    Orders 1 and 3 integrate the Lagrange polynomial exactly. The first steps use as much
    history as there is; the step to clean data is of order 1.
    """

    order: int = 2

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise InputError(f"DPMpp has orders 1, 2 and 3: got {self.order}")

    def rows(self, schedule: Schedule, points: Sequence[HostPoint]) -> list[PlanStep]:
        steps = []
        for i, (at, to) in enumerate(pairwise(points)):
            past = [p for p in points[max(0, i + 1 - self.order) : i + 1][::-1] if math.isfinite(p.lam)]
            if len(past) < 2 or to.sigma == 0.0:
                steps.append(first_order(at, to, X0.pair, to.alpha, to.sigma))
                continue
            if len(past) == 2:
                h = to.lam - at.lam
                gain = -to.alpha * math.expm1(-h)
                slope = 0.5 * h / (at.lam - past[1].lam)
                w = [gain * (1.0 + slope), -gain * slope]
            else:
                w = weights(X0, CLOCKS["logsnr"], at, to, past)
            steps.append(PlanStep(Row(at, X0.pair, to.sigma / at.sigma, tuple(w), 0.0), (), to, True))
        return steps
