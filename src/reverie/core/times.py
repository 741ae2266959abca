"""Where along the path training looks: the density of t, as the inverse of its distribution function.

A time sampler maps uniforms u in (0, 1), float64 of shape (B,), to times of the same shape, increasing in u.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from reverie.core.schedules import Schedule

TimeSampler = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Uniform:
    """Uniform in t."""

    def __call__(self, u: Tensor) -> Tensor:
        return u


@dataclass(frozen=True)
class Steps:
    """Uniform on the times 1/T, 2/T, …, 1 of a chain of T = ``steps`` (Ho et al. 2020, algorithm 1)."""

    steps: int

    def __call__(self, u: Tensor) -> Tensor:
        return torch.ceil(u * self.steps) / self.steps


@dataclass(frozen=True)
class LogitNormal:
    """``logit(t) ~ N(mean, std²)`` (Esser et al. 2024, section 3.1). On the straight path logit(t) = −λ."""

    mean: float = 0.0
    std: float = 1.0

    def __call__(self, u: Tensor) -> Tensor:
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(u))


@dataclass(frozen=True)
class LogNormalSigma:
    """``log(σ/α) ~ N(mean, std²)`` on any path, on EDM's own the noise level σ (Karras et al. 2022, table 1).

    The defaults are theirs, for data of standard deviation 0.5; for data of s the mean is ``log(s/0.5) − 1.2``. What a path does not reach
    counts at its end. With the kind "edm" and the weight 1 this is EDM's loss: their weight is the inverse square of the target's scale.
    """

    schedule: Schedule
    mean: float = -1.2
    std: float = 1.2

    def __call__(self, u: Tensor) -> Tensor:
        lam = -(self.mean + self.std * torch.special.ndtri(u))
        return self.schedule.t_of_lam(lam.clamp(self.schedule.lam(1.0), self.schedule.lam(0.0))).clamp(0.0, 1.0)


@dataclass(frozen=True)
class LogSNR:
    """Uniform in log SNR over the schedule's default range (Kingma et al. 2021)."""

    schedule: Schedule

    def __call__(self, u: Tensor) -> Tensor:
        low, high = self.schedule.lam_range()
        return self.schedule.t_of_lam(high + (low - high) * u)
