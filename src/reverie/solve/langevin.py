"""Predictor-corrector sampling: Langevin moves at constant noise repair what the predictor got wrong."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from reverie.core.denoiser import Estimate
from reverie.core.errors import InputError
from reverie.core.schedules import HostPoint
from reverie.core.tensors import combine
from reverie.solve.corrector import Corrector
from reverie.solve.plan import Bound, Solver
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
