"""RePaint: after each move, what was measured is put in its place, with the noise that belongs there (Lugmayr et al. 2022, algorithm 1)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from reverie.core.errors import InputError
from reverie.core.estimate import Estimate
from reverie.core.schedules import HostPoint
from reverie.guide.gradient import match
from reverie.inverse.operators import Operator
from reverie.solve.corrector import Corrector
from reverie.solve.onestep import DDPM
from reverie.solve.plan import Bound, Solver


@dataclass(frozen=True, eq=False)
class RePaint(Corrector):
    """``x ← x − A⁺A·x + A⁺(α·y + √(σ² − α²σ_y²/c)·A·z)`` after each move, A·A* = c: for a mask, known pixels are noised and pasted.

    Noise in the measurement counts as part of the noise at that place; where it alone is more than that, the measurement is let go. Pasting
    does not tell the rest of the picture enough: walk with :func:`reverie.solve.walks.repaint`, as the paper does.

    Args:
        operator: linear, with a pseudo-inverse.
        y: the measurement, (1 or B, …).
        noise: σ_y, its standard deviation; with it ``operator`` must have a ``gram``.
        solver: what moves; ancestral as in the paper.
    """

    operator: Operator
    y: Tensor
    noise: float = 0.0
    solver: Solver = DDPM()

    stream: ClassVar[str] = "project"  # pyright: ignore[reportIncompatibleVariableOverride]

    def __post_init__(self) -> None:
        if not 0.0 <= self.noise < math.inf:
            raise InputError(
                f"noise is the standard deviation of the measurement's noise, at least 0: got {self.noise}"
            )
        if self.noise and self.operator.gram is None:
            raise InputError(
                f"repaint takes noise only where A·A* is a number, {type(self.operator).__name__}'s is not: use pigdm, or noise 0"
            )

    def acts(self, to: HostPoint) -> bool:
        return to.sigma**2 >= self._noise_variance(to)

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
        seen = self.operator(x)
        known = to.alpha * match("the measurement", self.y, seen)
        known = known + (to.sigma**2 - self._noise_variance(to)) ** 0.5 * self.operator(noise[0])
        return x - self.operator.pinv(seen) + self.operator.pinv(known)

    def _noise_variance(self, to: HostPoint) -> float:
        """The variance that the measurement's own noise has in x."""
        return (to.alpha * self.noise) ** 2 / (self.operator.gram or 1.0)
