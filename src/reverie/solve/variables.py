"""The probability-flow ODE in a solver's variable: with y = p·x0 + q·ε, ``d(x/M) = y dμ`` for a scale M and a measure μ of the path.

======  =====  ===========  ====================
y       M      μ            finite
======  =====  ===========  ====================
x0      σ      e^λ          except at clean data
ε       α      ρ = σ/α      except at pure noise
ε − x0  α + σ  τ = σ/(α+σ)  everywhere
======  =====  ===========  ====================

A linear multistep method holds a polynomial through the last y in some clock s(λ) and integrates it against μ exactly:
``x_u = (M_u/M_t)·x + M_u ∫ Σ_j ℓ_j(s)·y_j dμ``.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from reverie.core.errors import unknown
from reverie.core.predictions import Pair
from reverie.core.schedules import HostPoint, Schedule

_ORDER = 48


@dataclass(frozen=True)
class Variable:
    """``pair`` of y; ``scale`` M, zero exactly where μ is infinite; ``density`` dμ/dλ as a function of λ."""

    name: str
    pair: Pair
    scale: Callable[[HostPoint], float]
    density: Callable[[np.ndarray], np.ndarray]


def _logistic(lam: np.ndarray) -> np.ndarray:
    """τ(1 − τ) with τ = 1/(1 + e^λ)."""
    e = np.exp(-np.abs(lam))
    return e / (1.0 + e) ** 2


X0 = Variable("x0", (1.0, 0.0), lambda p: p.sigma, np.exp)
EPS = Variable("eps", (0.0, 1.0), lambda p: p.alpha, lambda lam: -np.exp(-lam))
STRAIGHT = Variable("straight", (-1.0, 1.0), lambda p: p.alpha + p.sigma, lambda lam: -_logistic(lam))
VARIABLES = {v.name: v for v in (X0, EPS, STRAIGHT)}


@dataclass(frozen=True)
class Clock:
    """The variable s that polynomials are drawn in: ``of`` a point (infinite where there is none), λ back from s, and ds/dλ."""

    name: str
    of: Callable[[HostPoint], float]
    lam: Callable[[np.ndarray], np.ndarray]
    rate: Callable[[np.ndarray], np.ndarray]


CLOCKS = {
    "logsnr": Clock("logsnr", lambda p: p.lam, lambda s: s, np.ones_like),
    "rho": Clock("rho", lambda p: p.rho, lambda s: -np.log(s), lambda lam: -np.exp(-lam)),
    "tau": Clock("tau", lambda p: p.tau, lambda s: np.log1p(-s) - np.log(s), lambda lam: -_logistic(lam)),
}


def clock(name: str, schedule: Schedule) -> Clock:
    """The clock called ``name``: "logsnr", "rho", "tau", or the path's own "time".

    Raises:
        InputError: for any other name.
    """
    if name in CLOCKS:
        return CLOCKS[name]
    if name != "time":
        raise unknown("clock", name, [*CLOCKS, "time"])

    def of(p: HostPoint) -> float:
        return (
            p.t if math.isfinite(p.lam) else math.inf
        )  # a path may stop short of clean data, where t is no longer a clock

    def tensor(f: Callable[[torch.Tensor], torch.Tensor], s: np.ndarray) -> np.ndarray:
        return f(torch.from_numpy(s)).numpy()

    return Clock(
        "time", of, lambda s: tensor(schedule.lam, s), lambda lam: 1.0 / tensor(schedule.d_lam, tensor(schedule.t_of_lam, lam))
    )  # fmt: skip


@lru_cache
def _gauss() -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(_ORDER)


def weights(variable: Variable, clock: Clock, at: HostPoint, to: HostPoint, nodes: Sequence[HostPoint]) -> list[float]:
    """``M_u ∫_t^u ℓ_j(s) dμ`` for the Lagrange polynomials through ``nodes`` in the clock, by Gauss-Legendre quadrature."""
    s, e = clock.of(at), clock.of(to)
    positions = [clock.of(node) for node in nodes]
    z, g = _gauss()
    x = 0.5 * (e - s) * z + 0.5 * (e + s)
    lam = clock.lam(x)
    measure = 0.5 * (e - s) * g * variable.density(lam) / clock.rate(lam)
    result = []
    for j, own in enumerate(positions):
        basis = np.ones_like(x)
        for k, other in enumerate(positions):
            if k != j:
                basis *= (x - other) / (own - other)
        result.append(variable.scale(to) * math.fsum(basis * measure))
    return result
