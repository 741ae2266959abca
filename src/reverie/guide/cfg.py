"""Classifier-free guidance (Ho & Salimans 2022), with one convention: scale 1 is the conditional model.

The paper's w is scale − 1. Guidance sharpens each condition, but it does not sample the density ∝ p(x)·p(c|x)^scale: noisy marginals of
that density are not what the combined score is the score of (the guides page measures by how much).
"""

from torch import Tensor

from reverie.core.call import Call
from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser
from reverie.core.errors import InputError
from reverie.core.estimate import Estimate
from reverie.core.schedules import Point
from reverie.guide.contrast import Contrast, Interval, Strength, constant


class CFG(Contrast):
    """The better estimate knows the condition, the worse one the null or a negative condition. See :func:`cfg`."""

    def __init__(
        self, base: Denoiser, scale: Strength, interval: Interval | None = None, negative: Cond | None = None
    ) -> None:
        super().__init__(base, scale, interval)
        self.negative = None if negative is None else constant(negative, "a negative condition")
        if negative is not None:
            negative.check(base.conditions)

    def better(self, x: Tensor, point: Point, cond: Cond | None, call: Call | None) -> Estimate:
        return self.base(x, point, cond, call)

    def worse(self, x: Tensor, point: Point, cond: Cond | None, call: Call | None) -> Estimate:
        return self.base(x, point, self._against(cond, x), call)

    def both(self, x: Tensor, point: Point, cond: Cond | None, call: Call | None) -> tuple[Estimate, Estimate]:
        two = self.base.branches(x, point, {"null": self._against(cond, x), "cond": cond}, call)
        return two["cond"], two["null"]

    def _against(self, cond: Cond | None, x: Tensor) -> Cond:
        if cond is None or not self.base.conditions:
            raise InputError("classifier-free guidance needs a condition: pass cond=, or use scale 1")
        return cond.null() if self.negative is None else self.negative.to(x.device)


def cfg(denoise: Denoiser, scale: Strength, interval: Interval | None = None, negative: Cond | None = None) -> Denoiser:
    """Guide a conditional denoiser by its own null branch, both in one batched evaluation.

    Args:
        denoise: trained with condition dropout.
        scale: 1 is the conditional model, 0 the unconditional one, and each costs one evaluation; otherwise two. A number, one a sample
            (B,), or a function of logsnr that gives either.
        interval: (low, high) in logsnr outside of which the scale is 1 and the null branch is not evaluated (Kynkäänniemi et al. 2024).
        negative: a condition to go away from, in place of the null: one for all samples.

    Raises:
        InputError: for an interval the wrong way round, or a negative condition the model does not take.
    """
    return CFG(denoise, scale, interval, negative)
