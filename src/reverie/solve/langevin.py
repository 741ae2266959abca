"""Langevin moves at constant noise: alone, level after level, or after each move of a predictor, whose errors they repair."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from torch import Tensor

from reverie.core.errors import InputError
from reverie.core.estimate import Estimate
from reverie.core.schedules import HostPoint, Schedule
from reverie.core.tensors import combine
from reverie.solve.corrector import Corrector
from reverie.solve.plan import Bound, Draw, PlanStep, Row, Solver, TableSolver, span
from reverie.solve.rungekutta import Euler


@dataclass(frozen=True)
class Langevin(Corrector):
    """``x ← x + e·s + √(2e)·z``, s the score and ``e = 2(r·σ)²``, after each move of a predictor (Song et al. 2021, algorithms 4 and 5).

    The paper takes ``e = 2(r‖z‖/‖s‖)²`` with norms averaged over the batch. Here they are their expectations for pure noise, √d and √d/σ:
    a sample must not depend on its batch, and a single sample's own norms make steps that are unbounded where its score
    vanishes. In x/α this is one rule for all paths, the paper's for VE (its factor for VP is 1 up to a step's β).

    Args:
        solver: the predictor, Euler's method by default.
        steps: M, Langevin moves after each move of the predictor; one evaluation each.
        snr: r.
    """

    solver: Solver = Euler()
    steps: int = 1
    snr: float = 0.16

    stream: ClassVar[str] = "langevin"  # pyright: ignore[reportIncompatibleVariableOverride]
    evaluations: ClassVar[int] = 1  # pyright: ignore[reportIncompatibleVariableOverride]

    def __post_init__(self) -> None:
        if self.steps < 0 or not self.snr > 0.0:
            raise InputError(f"Langevin takes at least 0 steps at a positive snr: got {self.steps} and {self.snr}")

    @property
    def times(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.steps

    def acts(self, to: HostPoint) -> bool:
        return to.sigma > 0.0 and self.steps > 0

    def correct(
        self,
        denoise: Bound,
        x_t: Tensor,
        estimate: Estimate,
        x: Tensor,
        at: HostPoint,
        to: HostPoint,
        noise: Sequence[Tensor],
    ) -> Tensor:
        (z,) = noise
        # e·s = −2r²σ·ε
        return combine((1.0, -2.0 * self.snr**2 * to.sigma, 2.0 * self.snr * to.sigma), (x, denoise(x, to).eps, z))


@dataclass(frozen=True)
class AnnealedLangevin(TableSolver):
    """``x ← x + ½a·s + √a·z`` with ``a = rate·σ²``, ``moves`` times at each level, without a predictor (Song & Ermon 2019, algorithm 1).

    In x/α, so on any path. Each node of the grid but the last is a level; from one to the next x stays as it is, and so it does at the end:
    on a grid to clean data the noise of the last level remains in the sample. The paper's levels are those of
    :class:`reverie.solve.grids.logsnr`, ten from σ = 1 to 0.01.

    Args:
        moves: T, one evaluation each.
        rate: the paper's ``ε/σ_L²``, 2·10⁻⁵/0.01².
    """

    moves: int = 100
    rate: float = 0.2

    def __post_init__(self) -> None:
        if self.moves < 1 or not 0.0 < self.rate < 4.0:
            raise InputError(
                f"annealed Langevin takes at least 1 move, at a rate in (0, 4), beyond which it diverges: got {self.moves}, {self.rate}"
            )

    def rows(self, schedule: Schedule, points: Sequence[HostPoint]) -> list[PlanStep]:
        steps = []
        for at, to in pairwise(points):
            if at.alpha == 0.0:
                raise InputError("annealed Langevin starts at a finite logsnr, such as on grids.logsnr()")
            for left in reversed(range(self.moves)):
                c = 1.0 if left else to.alpha / at.alpha
                # a·s/2 = −½·rate·σ·ε
                row = Row(at, (0.0, 1.0), c, (-0.5 * c * self.rate * at.sigma,), c * self.rate**0.5 * at.sigma)
                steps.append(PlanStep(row, (Draw("langevin", span(at, to)),), at if left else to, not left))
        return steps
