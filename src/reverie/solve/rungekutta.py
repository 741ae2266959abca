"""One-step Runge-Kutta solvers of the probability flow, in the ODE ``d(x/M) = y dμ`` of :mod:`reverie.solve.variables`."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from reverie.core.schedules import HostPoint, Schedule
from reverie.solve.plan import PlanStep, Row, TableSolver, first_order
from reverie.solve.variables import VARIABLES


@dataclass(frozen=True)
class Euler(TableSolver):
    """Euler's method, ``x_u = α_u·x0 + σ_u·ε``: the same step in ρ, in τ and as deterministic DDIM. Order 1."""

    def rows(self, schedule: Schedule, points: Sequence[HostPoint]) -> list[PlanStep]:
        return [first_order(at, to, VARIABLES["straight"].pair, to.alpha, to.sigma) for at, to in pairwise(points)]


@dataclass(frozen=True)
class Heun(TableSolver):
    """Heun's method (Karras et al. 2022, algorithm 1), order 2, two evaluations a step and one on the step to clean data.

    ``variable`` "eps" is the ODE of ε in ρ = σ/α, as in the paper; "straight" the ODE of ε − x0 in τ = σ/(α+σ), which is finite at pure
    noise too and is the flow-matching form. A step from or to pure noise, where ρ is infinite, is taken in τ.
    """

    variable: Literal["eps", "straight"] = "eps"

    def rows(self, schedule: Schedule, points: Sequence[HostPoint]) -> list[PlanStep]:
        steps = []
        for at, to in pairwise(points):
            v = VARIABLES["straight" if 0.0 in (at.alpha, to.alpha) else self.variable]
            predict = first_order(at, to, v.pair, to.alpha, to.sigma)
            if to.sigma == 0.0:
                steps.append(predict)
                continue
            half = 0.5 * predict.row.w[0]
            correct = Row(to, v.pair, 1.0, (half, -half), 0.0)
            steps += [predict._replace(node=False), PlanStep(correct, (), to, True)]
        return steps
