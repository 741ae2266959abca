"""FreeDoM: an energy's gradient step after each move of any solver, and time travel (Yu et al. 2023, "FreeDoM", algorithms 1 and 2)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from reverie.core.errors import InputError
from reverie.core.estimate import Estimate
from reverie.core.schedules import HostPoint
from reverie.core.space import Identity, Space
from reverie.guide.contrast import checked
from reverie.guide.gradient import Energy, Traced, measure, trace
from reverie.solve.corrector import Corrected, Correction, Corrector
from reverie.solve.plan import Bound, Move, Solver, Walk, plain

Rate = Callable[[HostPoint, HostPoint, Estimate, Tensor], Tensor]
"""(t, u, estimate, gradient) -> what is taken away from x_u."""


@dataclass(frozen=True)
class Constant:
    """``rate·∇E`` in coordinates of unit variance, x/√(α² + σ²): the paper's ρ_t on a VP path, and the same walk on any other."""

    rate: float

    def __post_init__(self) -> None:
        checked(self.rate, "rate")

    def __call__(self, at: HostPoint, to: HostPoint, estimate: Estimate, gradient: Tensor) -> Tensor:
        return gradient * (self.rate * math.hypot(at.alpha, at.sigma) * math.hypot(to.alpha, to.sigma))


@dataclass(frozen=True)
class Relative:
    """A step of known size whatever the energy's unit: x̂0 moves by ``rate`` times the rms of its noise, ``(σ_t/α_t)·rms(ε̂)``.

    x_u moves by the share of x̂0 in an ancestral step, ``α_u(1 − e^(−2h))`` (the text-guided setting of the paper's code, at 0.02).
    """

    rate: float

    def __post_init__(self) -> None:
        checked(self.rate, "rate")

    def __call__(self, at: HostPoint, to: HostPoint, estimate: Estimate, gradient: Tensor) -> Tensor:
        if at.alpha == 0.0:
            return gradient * 0.0
        size = self.rate * at.rho * to.alpha * -math.expm1(2.0 * (at.lam - to.lam))
        return gradient * (size * _rms(estimate.eps) / _rms(gradient).clamp(min=1e-20))


@dataclass(frozen=True, eq=False)
class FreeDoM(Corrector):
    """``x_u ← x_u − ρ_t·∇_{x_t}E(x̂0(x_t))`` after each move t→u of ``solver``, at no further evaluation and one pass back a move.

    Args:
        solver: any; ancestral ones make up for what the energy disturbs.
        energy: images (B, C, H, W) -> (B,).
        rate: ρ_t: a number for :class:`Constant`, or a :data:`Rate`.
        space: of the denoiser, if it is diffused in one: ``denoise.space``.

    Raises:
        InputError: (when sampling) with gradients off, or for an energy that is not finite or not one number a sample.
    """

    solver: Solver
    energy: Energy
    rate: float | Rate = Relative(0.02)
    space: Space = Identity()

    def __post_init__(self) -> None:
        if not callable(self.rate):
            Constant(self.rate)

    def step(self, denoise: Bound, state: Corrected, row, noise: Sequence[Tensor]) -> Corrected:
        after = super().step(lambda x, point: trace(lambda x: denoise(x, point), x), state, row, noise)
        return after._replace(estimate=None) if isinstance(row, Correction) else after  # frees what the gradient needed

    def correct(
        self,
        denoise: Bound,
        x_t: Tensor,
        estimate: Estimate,
        x: Tensor,
        at: HostPoint,
        to: HostPoint,
        noise: Sequence[Tensor],
    ) -> Tensor:
        assert isinstance(estimate, Traced)
        gradient = estimate.vjp(measure(self.energy, self.space, estimate.graph.x0))
        rate = self.rate if callable(self.rate) else Constant(self.rate)
        return x - rate(at, to, estimate, gradient)


def time_travel(
    points: Sequence[HostPoint], repeat: int, interval: tuple[float, float] = (-math.inf, math.inf)
) -> Walk:
    """Each move that ends within ``interval`` (logsnr) is taken ``repeat`` times, renoised to its start in between (algorithm 2).

    Raises:
        InputError: for repeat < 1.
    """
    if repeat < 1:
        raise InputError(f"repeat is at least 1: got {repeat}")
    walk: list[Move] = []
    for move in plain(points):
        again = (Move("renoise", move.to, move.at), move) if interval[0] <= move.to.logsnr <= interval[1] else ()
        walk += [move, *again * (repeat - 1)]
    return tuple(walk)


def _rms(x: Tensor) -> Tensor:
    """Of each sample, (B, 1, …)."""
    return x.flatten(1).square().mean(1).sqrt().reshape(-1, *(1,) * (x.ndim - 1))
