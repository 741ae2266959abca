"""Classifier-free guidance with rescaling (Lin et al. 2024, section 3.4): guided samples keep the contrast of conditional ones.

``y = worse + scale·(better − worse)``, then ``y' = φ·y·std(better)/std(y) + (1 − φ)·y``. The standard deviation is over the pixels and
channels of one sample. This is not linear, so the space in which it acts matters; the paper's models output v.
"""

import torch
from torch import Tensor

from reverie.core.denoiser import Denoiser
from reverie.core.errors import InputError
from reverie.core.estimate import Estimate
from reverie.core.tensors import Scalar
from reverie.guide.cfg import CFG
from reverie.guide.contrast import Interval, Strength, in_space, shifted


class Rescaled(CFG):
    """See :func:`rescaled`."""

    def __init__(self, base: Denoiser, scale: Strength, amount: float, space: str, interval: Interval | None) -> None:
        super().__init__(base, scale, interval)
        if not 0.0 <= amount <= 1.0:
            raise InputError(f"amount is the share of the rescaled estimate, in [0, 1]: got {amount}")
        self.amount, self.acts_in = amount, space

    @property
    def smooth(self) -> bool:
        return (
            self.amount == 0.0 and super().smooth
        )  # a standard deviation has a kink at 0, and so has what is divided by it

    def mix(self, better: Estimate, worse: Estimate, scale: Scalar) -> Estimate:
        guided = super().mix(better, worse, scale)
        y = in_space(guided, self.acts_in)
        wanted, has = _std(in_space(better, self.acts_in)), _std(y)
        factor = torch.where(has > 0.0, wanted / has, 1.0)
        return shifted(guided, self.amount * (factor - 1.0) * y, self.acts_in)


def _std(x: Tensor) -> Tensor:
    """Over all but the batch, (B, 1, …)."""
    return x.flatten(1).std(1, correction=0).reshape(-1, *(1,) * (x.ndim - 1))


def rescaled(
    denoise: Denoiser, scale: Strength, amount: float = 0.7, space: str = "x0", interval: Interval | None = None
) -> Denoiser:
    """Classifier-free guidance whose estimate has (a share ``amount`` of) the standard deviation of the conditional one, sample by sample.

    Args:
        denoise: trained with condition dropout.
        scale, interval: as :func:`reverie.guide.cfg`.
        amount: φ; 0 is plain guidance.
        space: in which the standard deviations are matched: x0, eps, v or score.

    Raises:
        InputError: for an amount outside [0, 1].
    """
    return Rescaled(denoise, scale, amount, space, interval)
