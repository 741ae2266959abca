"""Autoguidance (Karras et al. 2024, "Guiding a diffusion model with a bad version of itself"): away from a weaker model.

``weak + scale·(strong − weak)``, both under the same condition. The weaker model makes the same mistakes, only larger: what it shares with
the strong one is kept, where they differ the mistakes shrink, and variety stays. The weaker model can be

* a smaller network or an earlier checkpoint: ``rv.load("runs/x/checkpoints/step-00001000")``,
* the same run with another average of its weights: ``rv.load("runs/x", ema=False)``,
* the same network without some of its blocks: ``rv.guide.without(denoise, ["blocks.2"])``.
"""

from typing import Self

import torch
from torch import Tensor

from reverie.core.call import Call
from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser
from reverie.core.errors import InputError
from reverie.core.estimate import Estimate
from reverie.core.schedules import Point
from reverie.guide.contrast import Contrast, Interval, Strength


class Auto(Contrast):
    """The better estimate is the strong model's, the worse one the weak model's. See :func:`auto`.

    What a call changes of the network, it changes of the strong model's: the weak one may be another, and may be tapped by itself.
    """

    def __init__(self, base: Denoiser, weak: Denoiser, scale: Strength, interval: Interval | None = None) -> None:
        super().__init__(base, scale, interval)
        if tuple(weak.shape) != tuple(base.shape):
            raise InputError(
                f"the weaker model draws samples of shape {tuple(weak.shape)}, the model {tuple(base.shape)}"
            )
        if dict(weak.conditions) != dict(base.conditions):
            raise InputError(
                f"the weaker model takes the conditions {dict(weak.conditions)}, the model {dict(base.conditions)}: "
                "autoguidance contrasts two models of one task"
            )
        self.weak = weak.under(base.schedule)

    @property
    def together(self) -> bool:
        return super().together or self.weak.together

    @property
    def smooth(self) -> bool:
        return self.base.smooth and self.weak.smooth

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        self.weak.to(device, dtype)
        return super().to(device, dtype)

    def better(self, x: Tensor, point: Point, cond: Cond | None, call: Call | None) -> Estimate:
        return self.base(x, point, cond, call)

    def worse(self, x: Tensor, point: Point, cond: Cond | None, call: Call | None) -> Estimate:
        return self.weak(x, point, cond, None if call is None else call.plain())


def auto(denoise: Denoiser, weak: Denoiser, scale: Strength, interval: Interval | None = None) -> Denoiser:
    """Guide a model by a weaker version of itself; conditional or not.

    Args:
        denoise: the model, possibly guided already.
        weak: of the same shape and conditions; any path and prediction kind.
        scale: 1 is the model itself; a number, one a sample (B,), or a function of logsnr that gives either.
        interval: (low, high) in logsnr outside of which the scale is 1 and the weaker model is not evaluated.

    Raises:
        InputError: when the two models do not fit together.
    """
    return Auto(denoise, weak, scale, interval)
