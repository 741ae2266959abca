"""What most guides do: from a worse estimate through a better one and beyond, ``worse + scale·(better − worse)``.

Any linear reading gives the same combination: x0, ε, v and score are linear in each other. Where the scale is 1 only the better estimate
is evaluated, where it is 0 only the worse one.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from reverie.core.call import Call, per_branch
from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser, Wrapper
from reverie.core.errors import InputError
from reverie.core.estimate import Estimate
from reverie.core.predictions import Pair, kind
from reverie.core.schedules import Point
from reverie.core.tensors import Scalar, align, combine, finite

Strength = Scalar | Callable[[Scalar], Scalar]
"""A scale: a number, one a sample (B,), or a function of logsnr that gives either (it may be asked at ±∞, the ends of a path)."""

S = TypeVar("S", bound=Strength)

Interval = tuple[float, float]
"""(low, high) in logsnr, both included."""


class Contrast(Wrapper):
    """A guide that extrapolates from a worse estimate through a better one (Kynkäänniemi et al. 2024 for the interval).

    Args:
        base: what is guided.
        scale: 1 is the better estimate, 0 the worse one.
        interval: where in logsnr the scale acts; outside of it the scale is 1.

    Raises:
        InputError: for an interval whose ends are the wrong way round, or a scale that is not finite.
    """

    def __init__(self, base: Denoiser, scale: Strength, interval: Interval | None = None) -> None:
        super().__init__(base)
        if interval is not None and not interval[0] < interval[1]:
            raise InputError(f"interval is (low, high) in logsnr, noise is low and data high: got {interval}")
        self.scale, self.interval = checked(scale), interval

    @abstractmethod
    def better(self, x: Tensor, point: Point, cond: Cond | None, call: Call | None) -> Estimate: ...

    @abstractmethod
    def worse(self, x: Tensor, point: Point, cond: Cond | None, call: Call | None) -> Estimate: ...

    def both(self, x: Tensor, point: Point, cond: Cond | None, call: Call | None) -> tuple[Estimate, Estimate]:
        """The better and the worse estimate."""
        return self.better(x, point, cond, call), self.worse(x, point, cond, call)

    def mix(self, better: Estimate, worse: Estimate, scale: Scalar) -> Estimate:
        """The guided estimate; ``scale`` is a number or broadcasts over the state."""
        other = worse.out if _same(worse.pair, better.pair) else worse.linear(*better.pair)
        return better.replace(combine((scale, 1.0 - scale), (better.out, other)))

    @property
    def guidance(self) -> float:
        return self.base.guidance * strongest(self.scale, self)

    @property
    def together(self) -> bool:
        return self.base.together or per_sample(self.scale)

    def __call__(self, x: Tensor, t: Point | Scalar, cond: Cond | None = None, call: Call | None = None) -> Estimate:
        point = self.point(t, x)
        scale = self.strength(point, x, call)
        if isinstance(scale, float | int):
            if scale == 1.0:
                return self.better(x, point, cond, call)
            if scale == 0.0:
                return self.worse(x, point, cond, call)
        return self.mix(*self.both(x, point, cond, call), scale)

    def strength(self, point: Point, x: Tensor, call: Call | None = None) -> Scalar:
        """The scale at a point, broadcast over ``x``: a host float wherever the point is one and the scale is not one a sample."""
        logsnr = 2.0 * point.lam
        scale = strength(self.scale, logsnr, x, call)
        if self.interval is None:
            return scale
        low, high = self.interval
        if not isinstance(logsnr, Tensor):
            return scale if low <= logsnr <= high else 1.0
        return torch.where((logsnr >= low) & (logsnr <= high), scale, 1.0)


def _same(one: Pair, other: Pair) -> bool:
    """Whether two kinds are known to be one; tensors (a time a sample) only if they are the same objects."""
    return all(
        a is b or (not isinstance(a, Tensor) and not isinstance(b, Tensor) and a == b)
        for a, b in zip(one, other, strict=True)
    )


def strength(scale: Strength, logsnr: Scalar, x: Tensor, call: Call | None) -> Scalar:
    """A scale at a noise level, broadcast over the batch of a call."""
    value = scale(logsnr) if callable(scale) else scale
    return align(per_branch(value, len(x), call) if isinstance(value, Tensor) else value, x)


def per_sample(scale: Strength) -> bool:
    """Whether a scale is one a sample."""
    value = scale(0.0) if callable(scale) else scale
    return isinstance(value, Tensor) and value.numel() > 1


def checked(scale: S, what: str = "scale") -> S:
    """The scale itself. A function is asked only when the guide runs.

    Raises:
        InputError: for a scale that is not finite.
    """
    if not callable(scale) and not finite(torch.as_tensor(scale)):
        raise InputError(f"{what} is a finite number, or one a sample: got {scale}")
    return scale


def strongest(scale: Strength, denoise: Denoiser) -> float:
    """The largest value of a scale; of a function, on the default range of the path."""
    if callable(scale):
        low, high = denoise.schedule.lam_range()
        return max(strongest(scale(2.0 * (low + (high - low) * i / 63)), denoise) for i in range(64))
    return float(scale.max()) if isinstance(scale, Tensor) else float(scale)


def shifted(estimate: Estimate, delta: Tensor, space: str) -> Estimate:
    """The estimate whose reading in ``space`` (x0, eps, v or score) is ``delta`` further; x_t stays."""
    _, slope = estimate.coefficients(*kind(space)(estimate.point))
    if not isinstance(slope, Tensor) and slope == 0.0:
        return estimate  # x_t alone decides that reading: x0 at clean data, ε at pure noise
    return estimate.replace(estimate.out + delta / slope)


def in_space(estimate: Estimate, space: str) -> Tensor:
    """The estimate as x0, eps, v or score."""
    return estimate.linear(*kind(space)(estimate.point))


def constant(cond: Cond, what: str) -> Cond:
    """A condition that a guide keeps, the same for every sample.

    Raises:
        InputError: when it holds several: a run may be split into batches, which such a condition would not follow.
    """
    if len(cond) != 1:
        raise InputError(
            f"{what} is one condition for all samples: got {len(cond)}. What differs by sample goes in cond="
        )
    return cond
