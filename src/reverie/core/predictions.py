"""Prediction kinds: a network's target is ``y = p·x0 + q·ε`` for a pair (p, q) of functions of the point.

With ``x = α·x0 + σ·ε`` and ``D = q·α − p·σ``, ``x0 = (q·x − σ·y)/D`` and ``ε = (α·y − p·x)/D``: one 2×2 solve
converts anything to anything.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from reverie.core.errors import InputError, unknown
from reverie.core.schedules import Point, Schedule
from reverie.core.tensors import Scalar, exact

Pair = tuple[Scalar, Scalar]


@dataclass(frozen=True)
class Kind:
    """A named pair (p, q). ``Kind("mine", lambda point: (p, q))`` is all a user-defined kind needs."""

    name: str
    pair: Callable[[Point], Pair]

    def __call__(self, point: Point) -> Pair:
        return self.pair(point)


def _score(point: Point) -> Pair:
    if isinstance(point.sigma, float) and point.sigma == 0.0:
        raise InputError("the score is infinite at sigma = 0; ask for x0, or stop at a finite logsnr")
    return 0.0, -1.0 / point.sigma


@dataclass(frozen=True)
class _EDM:
    data_std: float

    def __call__(self, point: Point) -> Pair:
        h = (point.sigma**2 + (point.alpha * self.data_std) ** 2) ** 0.5
        return point.sigma / (self.data_std * h), -point.alpha * self.data_std / h


def edm(data_std: float = 0.5) -> Kind:
    """The preconditioned target of Karras et al. 2022 (table 1) on any path; with h = √(σ² + α²s²): ``y = σ/(s·h)·x0 − α·s/h·ε``.

    It has unit variance for data of standard deviation s = ``data_std``.
    """
    return Kind(f"edm({data_std})", _EDM(data_std))


@dataclass(frozen=True)
class _Mean:
    schedule: Schedule
    steps: int

    def __call__(self, point: Point) -> Pair:
        t = point.t if isinstance(point.t, Tensor) else torch.tensor(point.t, dtype=torch.float64, device="cpu")
        u = ((t.to(exact(t)) * self.steps).round() - 1.0).clamp(min=0.0) / self.steps
        alpha, sigma = self.schedule.alpha(u), self.schedule.sigma(u) * (u > 0.0)
        if isinstance(point.t, Tensor):
            alpha, sigma = alpha.to(t.dtype), sigma.to(t.dtype)
        else:
            alpha, sigma = alpha.item(), sigma.item()
        return alpha, point.alpha * sigma**2 / (alpha * point.sigma)


def mean(schedule: Schedule, steps: int) -> Kind:
    """The mean μ̃ of q(x_u | x_t, x0) one step u = t − 1/T down a chain of T = ``steps`` (Ho et al. 2020, eq. 7):
    ``y = α_u·x0 + (α_t·σ_u²/(α_u·σ_t))·ε``. Between the steps it is that of the nearest.
    """
    return Kind(f"mean({steps})", _Mean(schedule, steps))


def _x0(point: Point) -> Pair:
    return 1.0, 0.0


def _eps(point: Point) -> Pair:
    return 0.0, 1.0


def _v(point: Point) -> Pair:
    return -point.sigma, point.alpha


def _flow(point: Point) -> Pair:
    return point.d_alpha, point.d_sigma


def _straight(point: Point) -> Pair:
    return -1.0, 1.0


KINDS = {
    "x0": Kind("x0", _x0),
    "eps": Kind("eps", _eps),
    "v": Kind("v", _v),
    "score": Kind("score", _score),
    "flow": Kind("flow", _flow),
    "straight": Kind("straight", _straight),
    "edm": edm(),
}
"""x0; ε; v = αε − σx0 (Salimans & Ho 2022); score = −ε/σ; flow = dx/dt along the path; straight = ε − x0; EDM with data_std 0.5."""


def kind(name: str | Kind, data_std: float | None = None) -> Kind:
    """The kind called ``name``, for "edm" that of ``data_std`` if given; a :class:`Kind` passes through.

    Raises:
        InputError: for an unknown name, with the nearest one.
    """
    if isinstance(name, Kind):
        return name
    if name not in KINDS:
        raise unknown("prediction kind", name, KINDS)
    return edm(data_std) if name == "edm" and data_std is not None else KINDS[name]


def convert(source: Pair, target: Pair, alpha: Scalar, sigma: Scalar) -> Pair:
    """Coefficients (a, b) with ``y_target = a·x + b·y_source``.

    Raises:
        InputError: where the conversion is singular (the source determines no x0 there), for host floats.
    """
    (p, q), (p2, q2) = source, target
    if type(p) is type(q) is type(p2) is type(q2) is float and p == p2 and q == q2:
        return 0.0, 1.0
    d = q * alpha - p * sigma
    if not isinstance(d, Tensor) and d == 0.0:
        raise InputError(
            f"a prediction of {p:g}·x0 + {q:g}·eps does not determine {p2:g}·x0 + {q2:g}·eps at alpha = {alpha:g}, sigma = {sigma:g}: "
            "start from a finite logsnr, or use a network that predicts x0, v or the flow velocity"
        )
    return (p2 * q - q2 * p) / d, (q2 * alpha - p2 * sigma) / d
