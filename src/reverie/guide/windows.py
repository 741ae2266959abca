"""MultiDiffusion (Bar-Tal et al. 2023): one model on many windows and regions, fused into one estimate of any size.

The paper moves every window by itself and asks for the picture closest to all of them, ``argmin Σᵢ‖Wᵢ⊙(x − xᵢ)‖²``, whose solution is the
mean of the windows at each pixel, weighted by Wᵢ². A step of an explicit solver is linear in the estimate and all windows share
x_t and its noise, so the mean of the moved windows is the move by the mean estimate: it is a guide, and any solver takes it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from reverie.core.call import Call
from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser, Wrapper
from reverie.core.errors import InputError
from reverie.core.estimate import Estimate
from reverie.core.schedules import Point
from reverie.core.tensors import Scalar, onto
from reverie.guide.contrast import constant

Region = tuple[Tensor, Cond]
"""Weights (H, W) of a condition on the canvas, not negative, and the condition."""


class Windows(Wrapper):
    """See :func:`windows`."""

    def __init__(self, base: Denoiser, size: tuple[int, int], stride: int, regions: Sequence[Region]) -> None:
        super().__init__(base)
        channels, height, width = base.shape
        if size[0] < height or size[1] < width or stride < 1:
            raise InputError(
                f"the canvas holds at least one window of {height}x{width}, moved by at least 1: got {size[0]}x{size[1]} and {stride}"
            )
        self.shape = (channels, *size)
        self.learned_variance = False  # what windows say of a shared place has no one variance
        self.corners = [(y, x) for y in _places(size[0], height, stride) for x in _places(size[1], width, stride)]
        self.regions = [(weight.double(), constant(cond, "a region's condition")) for weight, cond in regions]
        for weight, cond in self.regions:
            if tuple(weight.shape) != tuple(size):
                raise InputError(f"the weights of a region cover the canvas of {size}: got {tuple(weight.shape)}")
            if not ((weight >= 0) & weight.isfinite()).all():
                raise InputError("the weights of a region are finite and not negative")
            cond.check(base.conditions)
        total = sum((weight.square() for weight, _ in self.regions), torch.zeros(size, dtype=torch.float64))
        if self.regions and (total == 0).any():
            y, x = (total == 0).nonzero()[0].tolist()
            raise InputError(f"no region has a weight at row {y}, column {x}: add one for the background")
        count = torch.zeros(size, dtype=torch.float64)
        for y, x in self.corners:
            count[y : y + height, x : x + width] += 1.0
        self.blending = [weight.square() / (total * count) for weight, _ in self.regions] or [1.0 / count]
        self.used = [
            ((..., slice(y, y + height), slice(x, x + width)), i)
            for y, x in self.corners
            for i, weight in enumerate(self.blending)
            if weight[y : y + height, x : x + width].any()
        ]

    def __call__(self, x: Tensor, t: Point | Scalar, cond: Cond | None = None, call: Call | None = None) -> Estimate:
        if self.regions and cond is not None:
            raise InputError("the conditions of regions are given when the guide is made: pass no cond=")
        point = self.point(t, x)
        blending = [onto(weight, x) for weight in self.blending]
        conds = [c.to(x.device).expand(len(x)) for _, c in self.regions] or [cond]
        out, pair = torch.zeros_like(x), None
        for here, i in self.used:
            estimate = self.base(x[here], point, conds[i], call)
            pair = estimate.pair
            out[here] = out[here] + blending[i][here] * estimate.out
        assert pair is not None
        return Estimate(x, out, pair, point)


def _places(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin: every ``stride``, and one flush with the end."""
    last = length - window
    return [*range(0, last, stride), last]


def windows(
    denoise: Denoiser, size: tuple[int, int], stride: int | None = None, regions: Sequence[Region] = ()
) -> Denoiser:
    """A model of pictures as large as ``size`` from one of small pictures: panoramas, and a condition for each region.

    An evaluation costs one of the base for each window (and region that has a weight in it).

    Args:
        denoise: the model, guided or not; its ``shape`` is the window.
        size: (H, W) of the canvas, in the diffused space.
        stride: between windows; an eighth of the smaller side by default. What windows share makes them agree: with a stride of a whole
            window they know nothing of each other.
        regions: (weights, condition): where a condition holds, by weights (H, W) in proportion, squared as in the paper's sum of squares.

    Raises:
        InputError: for a canvas smaller than a window, weights of another size, or a pixel without any.
    """
    usual = max(1, min(denoise.shape[1:]) // 8)
    return Windows(denoise, (size[0], size[1]), usual if stride is None else stride, regions)
