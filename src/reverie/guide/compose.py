"""Several conditions at once (Liu et al. 2022, eq. 11): ``null + Σ scaleᵢ·(condᵢ − null)``; a negative scale keeps a concept away."""

from collections.abc import Sequence

from torch import Tensor

from reverie.core.call import Call
from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser, Wrapper
from reverie.core.errors import InputError
from reverie.core.estimate import Estimate
from reverie.core.schedules import Point
from reverie.core.tensors import Scalar, combine
from reverie.guide.contrast import checked, constant


class Compose(Wrapper):
    """See :func:`compose`."""

    def __init__(self, base: Denoiser, parts: Sequence[tuple[Cond, float]]) -> None:
        super().__init__(base)
        if not parts:
            raise InputError("compose takes at least one (condition, scale)")
        for cond, _ in parts:
            constant(cond, "a composed condition").check(base.conditions)
        self.conds, self.scales = [cond for cond, _ in parts], [float(checked(scale)) for _, scale in parts]

    @property
    def guidance(self) -> float:
        return self.base.guidance * max(1.0, sum(abs(scale) for scale in self.scales))

    def __call__(self, x: Tensor, t: Point | Scalar, cond: Cond | None = None, call: Call | None = None) -> Estimate:
        if cond is not None:
            raise InputError("the conditions of compose are given when it is made: pass no cond=")
        named = {"null": self.conds[0].null(), **{str(i): each for i, each in enumerate(self.conds)}}
        found = self.base.branches(x, self.point(t, x), {name: each.to(x.device) for name, each in named.items()}, call)
        null = found.pop("null")
        outs = [null.out, *(estimate.out for estimate in found.values())]
        return null.replace(combine((1.0 - sum(self.scales), *self.scales), outs))


def compose(denoise: Denoiser, parts: Sequence[tuple[Cond, float]]) -> Denoiser:
    """Guide towards (and away from) several conditions, all in one batched evaluation.

    Args:
        denoise: trained with condition dropout.
        parts: (condition, scale); each condition holds for all samples. One condition alone is :func:`reverie.guide.cfg` at that scale.

    Raises:
        InputError: for no parts, or a condition the model does not take.
    """
    return Compose(denoise, parts)
