"""One-step Runge-Kutta solvers of the probability flow, in the ODE ``d(x/M) = y dμ`` of :mod:`reverie.solve.variables`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from reverie.core.schedules import HostPoint, Schedule
from reverie.solve.plan import PlanStep, Row, TableSolver, first_order
from reverie.solve.variables import VARIABLES
from reverie.solve.walks import churn


@dataclass(frozen=True)
class Euler(TableSolver):
    """Euler's method, ``x_u = α_u·x0 + σ_u·ε``: the same step in ρ, in τ and as deterministic DDIM. Order 1."""

    def rows(self, schedule: Schedule, points: Sequence[HostPoint]) -> list[PlanStep]:
        return [first_order(at, to, VARIABLES["straight"].pair, to.alpha, to.sigma) for at, to in pairwise(points)]


@dataclass(frozen=True)
class Heun(TableSolver):
    """Heun's method (Karras et al. 2022, algorithm 1), order 2, two evaluations a step and one on the step to clean data.

    ``x̃/α_u = x/α_t + Δρ·ε(x, t)``, then ``x_u/α_u = x/α_t + Δρ·(½ε(x, t) + ½ε(x̃, u))``: the paper's d is ε and its σ is ρ, for x/α.

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


@dataclass(frozen=True)
class Churn(TableSolver):
    """Heun's method with re-noising before each move (Karras et al. 2022, algorithm 2), order 2 without churn.

    ``x̂/α̂ = x/α_t + √(ρ̂² − ρ_t²)·noise·z`` at ``ρ̂ = (1 + γ)ρ_t``, γ = min(churn/N, √2 − 1), wherever logsnr is within ``interval``, and
    Heun's step is taken from there. It is the walk :func:`reverie.solve.walks.churn` with Heun's rows and their ``noise`` (S_noise).
    """

    churn: float = 40.0
    interval: tuple[float, float] = (-math.inf, math.inf)
    noise: float = 1.0

    def rows(self, schedule: Schedule, points: Sequence[HostPoint]) -> list[PlanStep]:
        steps = []
        for step in Heun().plan(schedule, churn(schedule, points, self.churn, self.interval)).steps:
            if step.row.point is None:
                (draw,) = step.draws
                row = step.row._replace(s=self.noise * step.row.s)
                step = step._replace(row=row, draws=(draw._replace(stream="churn"),), node=False)
            steps.append(step)
        return steps


@dataclass(frozen=True)
class DPMpp2S(TableSolver):
    """DPM-Solver++ 2S (Lu et al. 2022b, algorithm 1): the midpoint method in λ on predictions of x0; order 2, two evaluations a step.

    ``x_s = (σ_s/σ_t)·x + α_s(1 − e^(−h/2))·D(x, t)`` at λ_s = λ_t + h/2, then ``x_u = (σ_u/σ_t)·x + α_u(1 − e^(−h))·D(x_s, s)``. Moves from
    pure noise and to clean data are of order 1.
    """

    def rows(self, schedule: Schedule, points: Sequence[HostPoint]) -> list[PlanStep]:
        pair, steps = VARIABLES["x0"].pair, []
        for at, to in pairwise(points):
            whole = first_order(at, to, pair, to.alpha, to.sigma)
            if not math.isfinite(to.lam - at.lam):
                steps.append(whole)
                continue
            middle = schedule.at(0.5 * (at.lam + to.lam))
            half = first_order(at, middle, pair, middle.alpha, middle.sigma)
            # x = (x_s − w·D)/c undoes the half step, so that x_u needs no third tensor
            c, w = whole.row.c / half.row.c, half.row.w[0]
            row = Row(middle, pair, c, (whole.row.w[0], -c * w), 0.0)
            steps += [half._replace(node=False), PlanStep(row, (), to, True)]
        return steps
