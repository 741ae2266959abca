"""Noise schedules: the path ``x_t = α(t)·x0 + σ(t)·ε`` with t = 0 data and t = 1 noise.

Each path gives log α, log σ, the exact inverse of ``λ = log(α/σ)`` and the derivatives α′, σ′ as primitives; everything else follows.
Functions take a float (and return one, computed in float64) or a floating tensor (and return one of the same dtype), and are
differentiable in t. ``logsnr = 2λ`` everywhere.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import Any, Generic, NamedTuple, TypeVar, overload

import torch
from torch import Tensor

from reverie.core.errors import InputError
from reverie.core.tensors import Scalar, align

S = TypeVar("S", float, Tensor, Scalar)


class Point(NamedTuple, Generic[S]):
    """One place on a path: t, α, σ, λ and the derivatives dα/dt, dσ/dt, as host floats or as tensors of one shape."""

    t: S
    alpha: S
    sigma: S
    lam: S
    d_alpha: S
    d_sigma: S

    @property
    def logsnr(self) -> S:
        return 2.0 * self.lam

    @property
    def rho(self) -> S:
        """``σ/α``: the noise level on the variance-exploding scale; infinite at pure noise."""
        return math.inf if isinstance(self.alpha, float) and self.alpha == 0.0 else self.sigma / self.alpha  # pyright: ignore[reportReturnType]

    @property
    def tau(self) -> S:
        """``σ/(α+σ)`` in [0, 1]: finite at both ends of every path."""
        return self.sigma / (self.alpha + self.sigma)

    def align(self, x: Tensor) -> "Point":
        """The point with every per-sample field broadcast over ``x``."""
        return Point(*(align(field, x) for field in self)) if isinstance(self.alpha, Tensor) else self


HostPoint = Point[float]
"""A point of a plan: host floats."""

_REMEMBERED = 4096
"""Points that a path remembers at most."""


class _Lifted:
    """Type of a schedule function: float -> float, tensor -> tensor."""

    @overload
    def __call__(self, t: float) -> float: ...
    @overload
    def __call__(self, t: Tensor) -> Tensor: ...
    def __call__(self, t: Any) -> Any: ...


def lifted(f: Callable[[Any, Tensor], Tensor]) -> Any:
    """Let a method written for tensors take host floats too, computed in float64."""

    @wraps(f)
    def wrapper(self: Any, t: Any) -> Any:
        if isinstance(t, Tensor):
            if not t.is_floating_point():
                raise InputError(f"a time must be a floating tensor in [0, 1], got dtype {t.dtype}")
            return f(self, t)
        return f(self, torch.tensor(float(t), dtype=torch.float64, device="cpu")).item()

    return wrapper


class Schedule:
    """A path. A subclass gives :meth:`log_alpha`, :meth:`log_sigma`, :meth:`t_of_lam`, :meth:`d_alpha` and :meth:`d_sigma`.

    A schedule knows no network and no data. Instances are frozen and hashable, so plans can be cached by them.
    """

    log_alpha: _Lifted
    log_sigma: _Lifted
    t_of_lam: _Lifted
    d_alpha: _Lifted
    d_sigma: _Lifted

    @lifted
    def alpha(self, t: Tensor) -> Tensor:
        """α(t)."""
        return torch.exp(self.log_alpha(t))

    @lifted
    def sigma(self, t: Tensor) -> Tensor:
        """σ(t)."""
        return torch.exp(self.log_sigma(t))

    @lifted
    def lam(self, t: Tensor) -> Tensor:
        """``λ(t) = log α − log σ``, strictly decreasing; ±∞ where the path reaches clean data or pure noise."""
        return self.log_alpha(t) - self.log_sigma(t)

    @lifted
    def logsnr(self, t: Tensor) -> Tensor:
        """``2λ(t)``."""
        return 2.0 * self.lam(t)

    @lifted
    def d_lam(self, t: Tensor) -> Tensor:
        """``dλ/dt = α′/α − σ′/σ``, negative."""
        return self.d_alpha(t) / self.alpha(t) - self.d_sigma(t) / self.sigma(t)

    def lam_range(self) -> tuple[float, float]:
        """Finite default range (λ_min, λ_max) that grids in λ cover: t in [10⁻³, 1], or [10⁻³, 1 − 10⁻³] if λ(1) is infinite."""
        low = self.lam(1.0)
        return (low if math.isfinite(low) else self.lam(1.0 - 1e-3)), self.lam(1e-3)

    def prior_std(self) -> float:
        """σ(1), the scale of the noise that sampling starts from."""
        return self.sigma(1.0)

    @overload
    def point(self, t: float) -> "HostPoint": ...
    @overload
    def point(self, t: Tensor) -> Point[Tensor]: ...
    def point(self, t: Scalar) -> Any:
        """The :class:`Point` at time ``t``: floats for a float (cached), tensors for a tensor of shape () or (B,)."""
        return self._point(t) if isinstance(t, Tensor) else self._remembered("t", float(t), self._point_at_time)

    @overload
    def at(self, lam: float) -> "HostPoint": ...
    @overload
    def at(self, lam: Tensor) -> Point[Tensor]: ...
    def at(self, lam: Scalar) -> Any:
        """The :class:`Point` where the path has the given λ. ``λ = ∞`` is clean data, also on a path that stops short of it.

        Raises:
            InputError: for a λ that the path does not reach (host floats only).
        """
        if isinstance(lam, Tensor):
            return self._point(self.t_of_lam(lam))._replace(lam=lam)
        return self.clean() if lam == math.inf else self._remembered("lam", float(lam), self._point_at_lam)

    def clean(self) -> "HostPoint":
        """Clean data: t = 0 and σ = 0. Sampling ends here by default, so the last move returns the estimate of x0."""
        return self.point(0.0)._replace(sigma=0.0, lam=math.inf)

    def _point(self, t: Tensor) -> Point[Tensor]:
        return Point(t, self.alpha(t), self.sigma(t), self.lam(t), self.d_alpha(t), self.d_sigma(t))

    @cached_property
    def _points(self) -> dict[tuple[str, float], HostPoint]:
        """Points by t and by λ. The path itself keeps them, so that what it is made of dies with it."""
        return {}

    def _remembered(self, by: str, value: float, make: Callable[[float], HostPoint]) -> HostPoint:
        point = self._points.get((by, value))
        if point is None:
            point = make(value)
            if len(self._points) >= _REMEMBERED:
                self._points.clear()
            self._points[by, value] = point
        return point

    def _point_at_time(self, t: float) -> HostPoint:
        if not 0.0 <= t <= 1.0:
            raise InputError(f"a time lies in [0, 1] (0 is data, 1 is noise), got {t}")
        point = self._point(torch.tensor(t, dtype=torch.float64, device="cpu"))
        return Point(*(field.item() for field in point))  # pyright: ignore[reportArgumentType, reportReturnType]

    def _point_at_lam(self, lam: float) -> HostPoint:
        t = self.t_of_lam(lam)
        if not -1e-9 <= t <= 1.0 + 1e-9:
            low, high = self.lam(1.0), self.lam(0.0)
            raise InputError(f"{self} covers logsnr {2 * low:.4g} to {2 * high:.4g}, asked for {2 * lam:.4g}")
        return self.point(min(max(t, 0.0), 1.0))._replace(lam=lam)


def as_schedule(schedule: Any) -> Schedule:
    """``schedule`` itself.

    Raises:
        InputError: for a class or whatever else is no path.
    """
    if isinstance(schedule, type) or not hasattr(schedule, "log_alpha"):
        raise InputError(f"a path is made by a call, such as Flow(): got {schedule!r}")
    return schedule


@dataclass(frozen=True)
class VP(Schedule):
    """Variance preserving with linear β (Ho et al. 2020; Song et al. 2021, eq. 32): ``log α = −¼t²(β₁−β₀) − ½tβ₀``, α²+σ² = 1."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    @lifted
    def log_alpha(self, t: Tensor) -> Tensor:
        return -0.25 * t * t * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min

    @lifted
    def log_sigma(self, t: Tensor) -> Tensor:
        return 0.5 * torch.log(-torch.expm1(2.0 * self.log_alpha(t)))

    @lifted
    def t_of_lam(self, lam: Tensor) -> Tensor:
        return self._t_of_log_alpha(0.5 * torch.nn.functional.logsigmoid(2.0 * lam))

    def _t_of_log_alpha(self, log_alpha: Tensor) -> Tensor:
        # −2 log α = ½t²(β₁−β₀) + tβ₀, solved without cancellation
        c = -2.0 * log_alpha
        return 2.0 * c / (self.beta_min + torch.sqrt(self.beta_min**2 + 2.0 * (self.beta_max - self.beta_min) * c))

    def _beta(self, t: Tensor) -> Tensor:
        return self.beta_min + t * (self.beta_max - self.beta_min)

    @lifted
    def d_alpha(self, t: Tensor) -> Tensor:
        return -0.5 * self._beta(t) * self.alpha(t)

    @lifted
    def d_sigma(self, t: Tensor) -> Tensor:
        return 0.5 * self._beta(t) * self.alpha(t) ** 2 / self.sigma(t)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Cosine (Nichol & Dhariwal 2021, eq. 17, continuous): ``α = cos(a+δ)/cos a``, δ = (π/2 − a)·t, a = (π/2)·s/(1+s), α²+σ² = 1.

    ``offset`` is their s; 0 gives the trigonometric path α = cos(πt/2), σ = sin(πt/2).
    """

    offset: float = 0.008

    @property
    def _a(self) -> float:
        return 0.5 * math.pi * self.offset / (1.0 + self.offset)

    def _delta(self, t: Tensor) -> Tensor:
        return (0.5 * math.pi - self._a) * t

    @lifted
    def alpha(self, t: Tensor) -> Tensor:
        # sin(π/2 − a − δ) is exactly zero at t = 1, cos(a + δ) is not
        return torch.sin((0.5 * math.pi - self._a) * (1.0 - t)) / math.cos(self._a)

    @lifted
    def sigma(self, t: Tensor) -> Tensor:
        # σ² = 1 − α² = sin δ · sin(2a + δ) / cos²a, a product, so it keeps its digits near t = 0
        delta = self._delta(t)
        if self.offset == 0.0:
            return torch.sin(delta)
        return torch.sqrt(torch.sin(delta) * torch.sin(2.0 * self._a + delta)) / math.cos(self._a)

    @lifted
    def log_alpha(self, t: Tensor) -> Tensor:
        return torch.log(self.alpha(t))

    @lifted
    def log_sigma(self, t: Tensor) -> Tensor:
        return torch.log(self.sigma(t))

    @lifted
    def t_of_lam(self, lam: Tensor) -> Tensor:
        cos_a = math.cos(self._a)
        # low noise: sin δ·sin(2a+δ) = σ²cos²a is a quadratic in tan δ; high noise: t from α directly
        k = torch.sigmoid(-2.0 * lam) * cos_a**2
        root = torch.sqrt(torch.clamp(math.sin(2 * self._a) ** 2 + 4.0 * k * (math.cos(2 * self._a) - k), min=0.0))
        low = torch.atan2(2.0 * k, math.sin(2 * self._a) + root) / (0.5 * math.pi - self._a)
        high = 1.0 - torch.asin(torch.sqrt(torch.sigmoid(2.0 * lam)) * cos_a) / (0.5 * math.pi - self._a)
        return torch.where(lam > 0, low, high)

    @lifted
    def d_alpha(self, t: Tensor) -> Tensor:
        rate = 0.5 * math.pi - self._a
        return -rate * torch.cos(rate * (1.0 - t)) / math.cos(self._a)

    @lifted
    def d_sigma(self, t: Tensor) -> Tensor:
        if self.offset == 0.0:
            return 0.5 * math.pi * torch.cos(self._delta(t))
        return -self.alpha(t) * self.d_alpha(t) / self.sigma(t)


@dataclass(frozen=True)
class Flow(Schedule):
    """Rectified flow, the straight path (Liu et al. 2023; Lipman et al. 2023): α = 1 − t, σ = t."""

    @lifted
    def alpha(self, t: Tensor) -> Tensor:
        return 1.0 - t

    @lifted
    def sigma(self, t: Tensor) -> Tensor:
        return t

    @lifted
    def log_alpha(self, t: Tensor) -> Tensor:
        return torch.log1p(-t)

    @lifted
    def log_sigma(self, t: Tensor) -> Tensor:
        return torch.log(t)

    @lifted
    def t_of_lam(self, lam: Tensor) -> Tensor:
        return torch.sigmoid(-lam)

    @lifted
    def d_alpha(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    @lifted
    def d_sigma(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)


@dataclass(frozen=True)
class VE(Schedule):
    """Variance exploding (Song et al. 2021, eq. 30): α = 1, ``σ = σ_min·(σ_max/σ_min)^t``. It stops at σ_min, short of clean data."""

    sigma_min: float = 0.01
    sigma_max: float = 80.0

    @property
    def _log_ratio(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    @lifted
    def log_alpha(self, t: Tensor) -> Tensor:
        return 0.0 * t

    @lifted
    def log_sigma(self, t: Tensor) -> Tensor:
        return math.log(self.sigma_min) + t * self._log_ratio

    @lifted
    def t_of_lam(self, lam: Tensor) -> Tensor:
        return (-lam - math.log(self.sigma_min)) / self._log_ratio

    @lifted
    def d_alpha(self, t: Tensor) -> Tensor:
        return 0.0 * t

    @lifted
    def d_sigma(self, t: Tensor) -> Tensor:
        return self._log_ratio * self.sigma(t)

    def lam_range(self) -> tuple[float, float]:
        return -math.log(self.sigma_max), -math.log(self.sigma_min)
