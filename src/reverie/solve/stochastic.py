"""Stochastic solvers of the reverse process, and the one policy that says how stochastic.

A move t→u keeps the part ``keep`` of the estimated noise and replaces the rest by fresh noise, ``keep² + fresh² = 1``, so that
``x_u = α_u·x0 + σ_u·(keep·ε + fresh·z)`` has the right marginal whatever the policy. Both conventions of η are such a mix.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np

from reverie.core.errors import InputError
from reverie.core.schedules import HostPoint, Schedule
from reverie.solve.multistep import two_node
from reverie.solve.plan import Draw, PlanStep, Row, TableSolver, first_order, span
from reverie.solve.variables import CLOCKS, STRAIGHT, X0, Variable


class NoiseMix(NamedTuple):
    """The parts of the noise at the end of a move that are estimated and fresh; keep² + fresh² = 1."""

    keep: float
    fresh: float


@dataclass(frozen=True)
class Stochastic:
    """How much noise a move replaces. η = 0 is the probability flow, η = 1 the reverse SDE in either convention.

    Over a move of h = λ_u − λ_t, ``sde`` keeps ``e^(−ηh)`` (Lu et al. 2022b; the SDE with η times the noise variance of the reverse
    diffusion) and ``ddim`` replaces ``η·√(1 − e^(−2h))`` (Song et al. 2021, eq. 16; for small h the same as ``sde`` with η²).
    """

    eta: float = 1.0
    convention: Literal["sde", "ddim"] = "sde"

    def __post_init__(self) -> None:
        if self.eta < 0.0 or (self.convention == "ddim" and self.eta > 1.0):
            raise InputError(f"η is at least 0, and at most 1 in the convention of DDIM: got {self.eta}")

    def mix(self, at: HostPoint, to: HostPoint) -> NoiseMix:
        """The noise kept and replaced by the move.

        Raises:
            InputError: for a move away from the data, which only a deterministic solver can make.
        """
        h = to.lam - at.lam
        if self.eta == 0.0:
            return NoiseMix(1.0, 0.0)
        if h < 0.0:
            raise InputError("a stochastic solver does not run towards noise: invert with η = 0")
        if self.convention == "sde":
            return NoiseMix(math.exp(-self.eta * h), math.sqrt(-math.expm1(-2.0 * self.eta * h)))
        fresh = self.eta * math.sqrt(-math.expm1(-2.0 * h))
        return NoiseMix(math.sqrt((1.0 - fresh) * (1.0 + fresh)), fresh)


def under_noise(rate: float) -> Variable:
    """x0 under the reverse SDE with ``rate`` times its noise variance.

    ``d(x/M) = x0 dμ + dW`` with M = σ·e^(−rate·λ), dμ = (1 + rate)·e^((1 + rate)λ) dλ, and W Brownian motion in the clock
    ``e^(2·rate·λ)``: with it any multistep method in x0 becomes one for the SDE.
    """
    return Variable(
        "x0",
        X0.pair,
        lambda p: p.sigma * math.exp(-rate * p.lam),
        lambda lam: (1.0 + rate) * np.exp((1.0 + rate) * lam),
    )


@dataclass(frozen=True)
class SDEDPMpp(TableSolver):
    """SDE-DPM-Solver++ (Lu et al. 2022b, section 5): the multistep solver of x0 in λ, on the reverse SDE; one evaluation a step.

    With H = (1 + η)h, ``x_u = (σ_u/σ_t)·e^(−ηh)·x + α_u(1 − e^(−H))·(D + (D − D_{−1})/(2r)) + σ_u√(1 − e^(−2ηh))·z``, r = h_{−1}/h; weak
    order 2. Order 1 leaves out D_{−1}; with η = 1 it is ancestral sampling. Order 3 integrates the parabola through three predictions,
    which removes one more term of the deterministic error; its weak order stays 2. ``convention`` as in :class:`Stochastic`.
    """

    order: int = 2
    eta: float = 1.0
    convention: Literal["sde", "ddim"] = "sde"

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise InputError(f"SDEDPMpp has orders 1 to 3: got {self.order}")
        Stochastic(self.eta, self.convention)

    def rows(self, schedule: Schedule, points: Sequence[HostPoint]) -> list[PlanStep]:
        policy, steps = Stochastic(self.eta, self.convention), []
        for i, (at, to) in enumerate(pairwise(points)):
            keep, fresh = policy.mix(at, to)
            nodes = [p for p in points[max(0, i + 1 - self.order) : i + 1] if math.isfinite(p.lam)][::-1]
            if len(nodes) < 2 or to.sigma == 0.0:
                steps.append(first_order(at, to, X0.pair, to.alpha, to.sigma * keep, to.sigma * fresh))
                continue
            h = to.lam - at.lam
            w = two_node(under_noise(-math.log(keep) / h), CLOCKS["logsnr"], "bh2", at, to, nodes)
            row = Row(at, X0.pair, to.sigma / at.sigma * keep, tuple(w), to.sigma * fresh)
            steps.append(PlanStep(row, (Draw("step", span(at, to)),) if fresh else (), to, True))
        return steps


@dataclass(frozen=True)
class EulerMaruyama(TableSolver):
    """Euler-Maruyama in the path's own time (Song et al. 2021, appendix), for any η; weak order 1.

    ``x_u = x + [dx/dt − ½η²g²·score]·(u − t) + η·g·√|u − t|·z`` with g² = −2σ²·dλ/dt. η = 1 is the reverse SDE and η = 0 Euler's method on
    the probability flow. The move to clean data is the estimate of x0.
    """

    eta: float = 1.0

    def __post_init__(self) -> None:
        if self.eta < 0.0:
            raise InputError(f"η is at least 0: got {self.eta}")

    def rows(self, schedule: Schedule, points: Sequence[HostPoint]) -> list[PlanStep]:
        steps = []
        for at, to in pairwise(points):
            if to.sigma == 0.0:
                steps.append(first_order(at, to, STRAIGHT.pair, to.alpha, 0.0))
                continue
            dt = to.t - at.t
            a, b, s = at.alpha + dt * at.d_alpha, at.sigma + dt * at.d_sigma, 0.0
            if self.eta:
                if at.alpha == 0.0:
                    raise InputError(
                        "the reverse SDE is singular at pure noise: start from a finite logsnr, grids.time(start=...)"
                    )
                d_lam = at.d_alpha / at.alpha - at.d_sigma / at.sigma
                b -= dt * self.eta**2 * at.sigma * d_lam
                s = self.eta * at.sigma * math.sqrt(2.0 * d_lam * dt)
            steps.append(first_order(at, to, STRAIGHT.pair, a, b, s))
        return steps
