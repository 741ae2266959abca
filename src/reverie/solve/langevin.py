"""Predictor-corrector sampling: Langevin moves at constant noise repair what the predictor got wrong."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from reverie.core.denoiser import Estimate
from reverie.core.errors import InputError
from reverie.core.schedules import HostPoint
from reverie.solve.corrector import Corrector
from reverie.solve.plan import Bound, Solver
from reverie.solve.rungekutta import Euler


@dataclass(frozen=True)
class Langevin(Corrector):
    """``x ← x + e·s + √(2e)·z`` with ``e = 2(r‖z‖/‖s‖)²``, s the score, after each move (Song et al. 2021, algorithms 4 and 5).

    The norms are each sample's own. In x/α this is one rule for all paths, the paper's for VE (its factor for VP is 1 up to a step's β).

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
        score = denoise(x, to).score
        each = (slice(None), *(None,) * (x.ndim - 1))
        norm = torch.linalg.vector_norm
        size = 2.0 * (self.snr * norm(z.flatten(1), dim=1) / norm(score.flatten(1), dim=1))[each] ** 2
        return x + size * score + torch.sqrt(2.0 * size) * z
