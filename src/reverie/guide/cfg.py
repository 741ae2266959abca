"""Classifier-free guidance (Ho & Salimans 2022), with one convention: scale 1 is the conditional model."""

from torch import Tensor

from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser, Estimate, Wrapper
from reverie.core.errors import InputError
from reverie.core.schedules import Point
from reverie.core.tensors import Scalar, align, combine


class CFG(Wrapper):
    """``out = null + scale·(cond − null)``; the combination is the same in x0, ε, v and score, which are linear in each other."""

    def __init__(self, base: Denoiser, scale: Scalar, interval: tuple[float, float] | None = None) -> None:
        super().__init__(base)
        self.scale, self.interval = scale, interval

    @property
    def guidance(self) -> float:
        return self.base.guidance * (float(self.scale.max()) if isinstance(self.scale, Tensor) else self.scale)

    def __call__(self, x: Tensor, t: Point | Scalar, cond: Cond | None = None) -> Estimate:
        point = self.point(t, x)
        if self._off(point):
            return self.base(x, point, cond)
        if cond is None or not self.base.conditions:
            raise InputError("classifier-free guidance needs a condition: pass cond=, or use scale 1")
        two = self.base.branches(x, point, {"null": cond.null(), "cond": cond})
        scale = align(self.scale, x)
        if self.interval is not None and isinstance(point.lam, Tensor):
            low, high = self.interval
            inside = (2.0 * point.lam >= low) & (2.0 * point.lam <= high)
            scale = scale * inside + ~inside
        return two["cond"].replace(combine((scale, 1.0 - scale), (two["cond"].out, two["null"].out)))

    def _off(self, point: Point) -> bool:
        """Whether one evaluation is enough here; known on the host whenever the plan's points are host floats."""
        if not isinstance(self.scale, Tensor) and self.scale == 1.0:
            return True
        if self.interval is None or isinstance(point.lam, Tensor):
            return False
        return not self.interval[0] <= 2.0 * point.lam <= self.interval[1]


def cfg(denoise: Denoiser, scale: Scalar, interval: tuple[float, float] | None = None) -> Denoiser:
    """Guide a conditional denoiser by its own null branch, both in one batched evaluation.

    Args:
        denoise: trained with condition dropout.
        scale: 1 is the conditional model and costs nothing extra, 0 the unconditional one; a number or one a sample, (B,).
        interval: (low, high) in logsnr outside of which the scale is 1 and the null branch is not evaluated (Kynkäänniemi et al. 2024).
    """
    return CFG(denoise, scale, interval)
