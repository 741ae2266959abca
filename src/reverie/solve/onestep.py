"""One-step solvers: each move is ``x_u = a·x0 + b·ε + s·z`` with the estimates at its start."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from reverie.core.schedules import HostPoint, Schedule
from reverie.solve.plan import PlanStep, TableSolver, first_order

STRAIGHT = (-1.0, 1.0)
"""The variable ε − x0: defined at every point of every path."""


def variance_ratio(at: HostPoint, to: HostPoint) -> float:
    """``1 − (α_t·σ_u/(α_u·σ_t))²`` = 1 − e^(−2h): the share of the noise that the reverse step t→u replaces."""
    return 1.0 - (at.alpha * to.sigma / (to.alpha * at.sigma)) ** 2


@dataclass(frozen=True)
class DDIM(TableSolver):
    """``x_u = α_u·x0 + √(σ_u² − q²)·ε + q·z``, q² = η²σ_u²(1 − e^(−2h)) (Song et al. 2021, eq. 12 and 16).

    η = 0 is the first-order exponential integrator of the probability flow on every path; η = 1 is ancestral sampling with
    the small variance.
    """

    eta: float = 0.0

    def rows(self, schedule: Schedule, points: Sequence[HostPoint]) -> list[PlanStep]:
        steps = []
        for at, to in pairwise(points):
            q = self.eta * to.sigma * max(variance_ratio(at, to), 0.0) ** 0.5 if self.eta else 0.0
            b = max(to.sigma**2 - q**2, 0.0) ** 0.5
            steps.append(first_order(at, to, STRAIGHT, to.alpha, b, q))
        return steps


@dataclass(frozen=True)
class DDPM(TableSolver):
    """Ancestral sampling (Ho et al. 2020, eq. 6-7): ``x_u = α_ts(σ_u²/σ_t²)·x + α_u(σ²_ts/σ_t²)·x0 + √v·z``, the last move without noise.

    With α_ts = α_t/α_u and σ²_ts = σ_t² − α_ts²σ_u², ``variance`` "small" is v = σ²_ts·σ_u²/σ_t² (exact for point-mass data) and "large"
    v = σ²_ts (exact for unit Gaussian data).
    """

    variance: Literal["small", "large"] = "small"

    def rows(self, schedule: Schedule, points: Sequence[HostPoint]) -> list[PlanStep]:
        steps = []
        for at, to in pairwise(points):
            keep = (at.alpha * to.sigma / (to.alpha * at.sigma)) * to.sigma  # α_ts·σ_u²/σ_t
            fresh = variance_ratio(at, to)
            v = fresh * (to.sigma**2 if self.variance == "small" else at.sigma**2)
            # the posterior mean with x = α_t·x0 + σ_t·ε
            a = keep * at.alpha / at.sigma + to.alpha * fresh
            steps.append(first_order(at, to, STRAIGHT, a, keep, v**0.5 if to.sigma else 0.0))
        return steps
