"""Denoisers: a network, a path, a prediction kind. Calling one gives an :class:`Estimate`, from which everything else is read."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor

from reverie.core import branches
from reverie.core.boundary import Bounded
from reverie.core.condition import Cond, Conditions
from reverie.core.conditioner import Conditioner
from reverie.core.count import evaluated
from reverie.core.errors import InputError, unknown
from reverie.core.predictions import KINDS, Kind, Pair, convert
from reverie.core.predictions import kind as as_kind
from reverie.core.schedules import Point, Schedule
from reverie.core.space import Identity, Space
from reverie.core.tensors import Scalar, align, combine, onto


class Estimate:
    """What a denoiser says of x_t: its output ``out = p·x0 + q·ε``, readable as any other prediction.

    Args:
        x_t: the noisy state, (B, …).
        out: the output, of the same shape.
        pair: (p, q) of the output at this point.
        point: where on the path x_t lies.
        variance: the model's own variance of the reverse step, where it has one.
        features: whatever was tapped on the way, by site.
    """

    __slots__ = ("features", "out", "pair", "point", "variance", "x_t")

    def __init__(
        self,
        x_t: Tensor,
        out: Tensor,
        pair: Pair,
        point: Point,
        variance: Tensor | None = None,
        features: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.x_t, self.out, self.pair, self.point, self.variance, self.features = (
            x_t,
            out,
            pair,
            point,
            variance,
            features,
        )

    def linear(self, p: Scalar, q: Scalar) -> Tensor:
        """``p·x0 + q·ε``."""
        return combine(self.coefficients(p, q), (self.x_t, self.out))

    def coefficients(self, p: Scalar, q: Scalar) -> Pair:
        """(a, b) with ``p·x0 + q·ε = a·x_t + b·out``."""
        return convert(self.pair, (p, q), self.point.alpha, self.point.sigma)

    def replace(self, out: Tensor) -> "Estimate":
        """The same with another output of the same kind: what a guide returns."""
        return Estimate(self.x_t, out, self.pair, self.point, self.variance, self.features)

    @property
    def x0(self) -> Tensor:
        """The estimate of clean data, E[x0 | x_t]."""
        return self.linear(1.0, 0.0)

    @property
    def eps(self) -> Tensor:
        """The estimate of the noise, E[ε | x_t]."""
        return self.linear(0.0, 1.0)

    @property
    def v(self) -> Tensor:
        """``α·ε − σ·x0`` (Salimans & Ho 2022)."""
        return self.linear(-self.point.sigma, self.point.alpha)

    @property
    def score(self) -> Tensor:
        """``∇ log p_t(x_t) = −ε/σ``."""
        return self.linear(*KINDS["score"](self.point))

    @property
    def velocity(self) -> Tensor:
        """``dx/dt = α′·x0 + σ′·ε``, the probability-flow drift in the path's own time."""
        return self.linear(self.point.d_alpha, self.point.d_sigma)


class Denoiser(ABC):
    """Callable ``(x_t, t, cond) -> Estimate`` with the path it lives on, the shape of a sample, its conditions and its space.

    ``t`` is a :class:`Point` (what samplers pass), a float, or a tensor of shape () or (B,). ``calibrations``, where a model has any, are
    grids fitted to it, by the number of steps and the guidance scale.
    """

    schedule: Schedule
    shape: tuple[int, ...]
    conditions: Conditions
    space: Space
    calibrations: Mapping[tuple[int, float], Any]

    @abstractmethod
    def __call__(self, x: Tensor, t: Point | Scalar, cond: Cond | None = None) -> Estimate: ...

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The denoiser itself, all that it holds moved and cast."""
        return self

    @property
    def dtype(self) -> torch.dtype:
        """Of what it computes with; the state of a run is of this dtype, and at least float32."""
        return torch.float32

    @property
    def guidance(self) -> float:
        """The strongest guidance scale acting, 1 without any: solvers choose their order by it."""
        return 1.0

    @property
    def smooth(self) -> bool:
        """Whether the estimate has no kinks and no jumps in x_t but those of the model's own: what a density of its flow needs."""
        return True

    def point(self, t: Point | Scalar, x: Tensor) -> Point:
        """The point of a time, with per-sample fields broadcast over ``x``."""
        if isinstance(t, Point):
            return t.align(x)
        if isinstance(t, Tensor) and t.ndim:
            align(t, x)
        return self.schedule.point(t).align(x)

    def under(self, schedule: Schedule) -> "Denoiser":
        """The same denoiser on another path: the state is rescaled to the point of its own path that has the same λ."""
        return self if schedule == self.schedule else Under(self, schedule)

    def branches(self, x: Tensor, t: Point | Scalar, conds: Mapping[str, Cond | None]) -> dict[str, Estimate]:
        """The estimates of one state under several named conditions, in one batched evaluation (branch-major)."""
        if len(conds) == 1 or any(cond is None for cond in conds.values()):
            estimates = {}
            for name, each in conds.items():
                with branches.named([name]):
                    estimates[name] = self(x, t, each)
            return estimates
        point = self.point(t, x)
        cond: Cond | None = None
        for each in conds.values():
            each = each.expand(len(x)) if each is not None else each
            cond = each if cond is None or each is None else cond.cat(each)
        k = len(conds)
        tiled = Point(*(f.repeat(k, *(1,) * (f.ndim - 1)) if isinstance(f, Tensor) and f.ndim else f for f in point))
        with branches.named(list(conds)):
            outs = self(x.repeat(k, *(1,) * (x.ndim - 1)), tiled, cond)
        pair = tuple(v[: len(x)] if isinstance(v, Tensor) and v.ndim else v for v in outs.pair)
        variances = [None] * k if outs.variance is None else outs.variance.chunk(k)
        each = zip(conds, outs.out.chunk(k), variances, strict=True)
        return {name: Estimate(x, out, pair, point, variance) for name, out, variance in each}  # pyright: ignore[reportArgumentType]


class Wrapper(Denoiser):
    """A denoiser made of another one; forwards the attributes of ``base``. Guides are wrappers."""

    def __init__(self, base: Denoiser) -> None:
        self.base = base

    def __getattr__(self, name: str) -> Any:
        if name == "base":
            raise AttributeError(name)
        return getattr(self.base, name)

    @property
    def device(self) -> torch.device:
        return self.base.device

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        self.base.to(device, dtype)
        return self

    @property
    def dtype(self) -> torch.dtype:
        return self.base.dtype

    @property
    def guidance(self) -> float:
        return self.base.guidance

    @property
    def smooth(self) -> bool:
        return self.base.smooth

    def point(self, t: Point | Scalar, x: Tensor) -> Point:
        return self.base.point(t, x)


class Under(Wrapper):
    """A denoiser re-expressed on another path by λ: ``x' = α'x0 + σ'ε`` is the base's state up to a factor where λ agrees."""

    def __init__(self, base: Denoiser, schedule: Schedule) -> None:
        super().__init__(base)
        self.schedule = schedule

    def point(self, t: Point | Scalar, x: Tensor) -> Point:
        return Denoiser.point(self, t, x)

    def __call__(self, x: Tensor, t: Point | Scalar, cond: Cond | None = None) -> Estimate:
        outer = self.point(t, x)
        inner = self.base.schedule.at(outer.lam).align(x)
        scale = (inner.alpha + inner.sigma) / (outer.alpha + outer.sigma)
        estimate = self.base(x * scale, inner, cond)
        return Estimate(x, estimate.out, estimate.pair, outer, estimate.variance, estimate.features)


TIME_MAPS: dict[str, Callable[[Point], Scalar]] = {
    "t": lambda point: point.t,
    "log_sigma": lambda point: -0.25 * point.lam,
}
"""What the network is told of the time: t itself, or ¼·log(σ/α) (Karras et al. 2022, table 1)."""


class NetDenoiser(Bounded, Denoiser):
    """A network as a denoiser.

    Args:
        net: ``net(x, time, cond) -> out`` with x (B, C, H, W) in the dtype of its weights, and time of shape () or (B,) in that of the
            state, which half precision is too coarse for.
        schedule: the path it was (or is being) trained on.
        kind: what ``out`` predicts.
        shape: of one sample, (C, H, W).
        time: what the network is told of it: a name in :data:`TIME_MAPS`, or a function of the point.
        data_std: if given, the network's input is scaled to unit variance for data of this standard deviation,
            ``c_in = 1/√(α²·data_std² + σ²)`` (Karras et al. 2022); otherwise x_t goes in as it is. The kind "edm" is of the same.
        learned_variance: the network gives 2C channels, the second half the place v in [−1, 1] of the log variance of a reverse step
            between its bounds (Nichol & Dhariwal 2021, eq. 15); the estimate's ``variance`` is the fraction (v + 1)/2.
        conditions: what it takes; the network's own by default.
        space: between data and what is diffused.

    A network with a ``prior`` (see :mod:`reverie.nets.prior`) is shown that closed form's x0 as its condition "image" and corrects its
    estimate: ``out = net + share·prior``.

    Attributes:
        conditioner: makes conditions of texts, class names and pictures.
    """

    def __init__(
        self,
        net: torch.nn.Module,
        schedule: Schedule,
        kind: str | Kind = "flow",
        *,
        shape: tuple[int, ...],
        time: str | Callable[[Point], Scalar] = "t",
        data_std: float | None = None,
        learned_variance: bool = False,
        conditions: Conditions | None = None,
        space: Space | None = None,
    ) -> None:
        if isinstance(time, str) and time not in TIME_MAPS:
            raise unknown("time map", time, TIME_MAPS)
        self.net, self.schedule, self.kind, self.shape = net, schedule, as_kind(kind, data_std), tuple(shape)
        self.time, self.data_std, self.learned_variance = time, data_std, learned_variance
        self.prior: Any = getattr(net, "prior", None)
        own = {k: v for k, v in getattr(net, "conditions", {}).items() if self.prior is None or k != "image"}
        self.conditions = dict(own if conditions is None else conditions)
        self.space = Identity() if space is None else space
        self.conditioner = Conditioner(self.conditions)

    def __call__(self, x: Tensor, t: Point | Scalar, cond: Cond | None = None) -> Estimate:
        if cond is not None:
            cond.check_names(self.conditions)
        point = self.point(t, x)
        scaled = x if self.data_std is None else x * (self.data_std**2 * point.alpha**2 + point.sigma**2) ** -0.5
        time = (TIME_MAPS[self.time] if isinstance(self.time, str) else self.time)(point)
        if isinstance(time, Tensor):
            time = onto(time.flatten() if time.ndim else time, x)
        elif math.isfinite(time):
            time = x.new_full((), time)
        else:
            raise InputError(
                f"the network reads the time as {self.time!r}, which is infinite at t = {point.t}: use a finite logsnr"
            )
        first = None if self.prior is None else self.prior(x, point, cond)
        if first is not None:
            cond = Cond(**{name: cond[name] for name in cond or ()}, image=first.x0)  # pyright: ignore[reportOptionalSubscript]
        out, variance = self.inside(scaled, time, cond), None
        if out is None:  # a tap has read what it wanted and ended the call: there is no estimate
            return Estimate(x, torch.full_like(x, math.nan), self.kind(point), point)
        out = evaluated(out)
        if self.learned_variance:
            out, place = out.chunk(2, dim=1)
            variance = 0.5 * (place + 1.0)
        if self.prior is not None and first is not None:
            out = out + self.prior.share(point) * first.linear(*self.kind(point))
        return Estimate(x, out, self.kind(point), point, variance)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The denoiser itself: network, prior, space and text encoder moved and cast."""
        self.net.to(device=device, dtype=dtype)
        self.space.to(device, dtype)
        self.conditioner.to(device, dtype)
        return self
