"""Adaptive projected guidance (Sadat, Hilliges & Weber 2025): guidance without its part along the estimate, which oversaturates.

With Δ = better − worse in x0, shortened to at most ``radius`` and split into the part along ``better`` and the part at right angles to it:
``better + (scale − 1)·(Δ⊥ + parallel·Δ∥)``. Norms and projections are those of one sample. The paper's reverse momentum needs the Δ of
earlier steps, which a guide has not.
"""

import math

import torch
from torch import Tensor

from reverie.core.denoiser import Denoiser
from reverie.core.errors import InputError
from reverie.core.estimate import Estimate
from reverie.core.tensors import Scalar
from reverie.guide.cfg import CFG
from reverie.guide.contrast import Interval, Strength, checked, in_space, shifted


class APG(CFG):
    """See :func:`apg`."""

    def __init__(
        self,
        base: Denoiser,
        scale: Strength,
        parallel: float,
        radius: float,
        space: str,
        interval: Interval | None,
    ) -> None:
        super().__init__(base, scale, interval)
        checked(parallel, "parallel")
        if not radius > 0.0:
            raise InputError(f"radius is the largest norm of a sample's guidance, above 0: got {radius}")
        self.parallel, self.radius, self.acts_in = parallel, radius, space

    @property
    def smooth(self) -> bool:
        return (
            self.parallel == 1.0 and self.radius == math.inf and super().smooth
        )  # the direction of an estimate jumps at 0

    def mix(self, better: Estimate, worse: Estimate, scale: Scalar) -> Estimate:
        y = in_space(better, self.acts_in)
        delta = y - in_space(worse, self.acts_in)
        if self.radius < math.inf:
            delta = delta * (self.radius / _dot(delta, delta).sqrt()).clamp(max=1.0)
        along = y * (_dot(delta, y) / _dot(y, y).clamp(min=torch.finfo(y.dtype).tiny))
        return shifted(better, (scale - 1.0) * (delta - (1.0 - self.parallel) * along), self.acts_in)


def _dot(x: Tensor, y: Tensor) -> Tensor:
    """Over all but the batch, (B, 1, …)."""
    return (x * y).flatten(1).sum(1).reshape(-1, *(1,) * (x.ndim - 1))


def apg(
    denoise: Denoiser,
    scale: Strength,
    parallel: float = 0.0,
    radius: float = math.inf,
    space: str = "x0",
    interval: Interval | None = None,
) -> Denoiser:
    """Classifier-free guidance at right angles to the conditional estimate.

    Args:
        denoise: trained with condition dropout.
        scale, interval: as :func:`reverie.guide.cfg`.
        parallel: how much of the part along the estimate stays; 1 with an infinite radius is plain guidance.
        radius: the largest Euclidean norm of a sample's Δ, in the units of ``space``.
        space: in which Δ is measured and projected: x0 (the paper's choice), eps, v or score.

    Raises:
        InputError: for a radius that is not positive.
    """
    return APG(denoise, scale, parallel, radius, space, interval)
