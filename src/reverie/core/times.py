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
class LogitNormal:
    """``logit(t) ~ N(mean, std²)`` (Esser et al. 2024, section 3.1). On the straight path logit(t) = −λ."""

    mean: float = 0.0
    std: float = 1.0

    def __call__(self, u: Tensor) -> Tensor:
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(u))


@dataclass(frozen=True)
class LogSNR:
    """Uniform in log SNR over the schedule's default range (Kingma et al. 2021)."""

    schedule: Schedule

    def __call__(self, u: Tensor) -> Tensor:
        low, high = self.schedule.lam_range()
        return self.schedule.t_of_lam(high + (low - high) * u)
