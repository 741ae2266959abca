"""RK45: the Runge-Kutta pair 5(4) of Dormand & Prince (1980), with a step size for each sample.

It integrates the straight form of the probability flow, ``d(x/(α+σ)) = (ε − x0) dτ`` with τ = σ/(α+σ), which is finite at both ends of
every path. Error, acceptance and step size belong to one sample and nothing is reduced over the batch, so a sample's steps are the same in
any batch. A sample that has arrived is evaluated along with the others and stays where it is.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from reverie.core.errors import InputError, RunError
from reverie.core.schedules import HostPoint, Point, Schedule
from reverie.core.tensors import align, combine, onto
from reverie.solve.plan import Bound, Plan, PlanStep, Row, Walk, first_order, renoise
from reverie.solve.variables import STRAIGHT

_NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)

Tensors = tuple[Tensor, ...]
Field = Callable[[Tensor, Tensors], Tensors]
"""Slopes at (τ, state): τ is (B,) float64 on the host, every tensor of the state has B rows."""


class Adaptive(NamedTuple):
    """The state x, the step size in τ to try next (B,), None before the first, and the evaluations (B,) that the last row took."""

    x: Tensor
    h: Tensor | None
    spent: Tensor


class Interval(NamedTuple):
    """The adaptive part of a move."""

    point: HostPoint
    to: HostPoint
    schedule: Schedule


@dataclass(frozen=True)
class RK45:
    """Dormand-Prince 5(4), adaptive for each sample: 6 evaluations a step, 1 more at each node of the grid.

    With z = x/(α+σ) and y = ε − x0, ``k_i = y(z + Δτ·Σ_j a_ij·k_j, τ + c_i·Δτ)`` for seven i, ``z' = z + Δτ·Σ_i b_i·k_i``, and
    ``error = Δτ·Σ_i (b_i − b*_i)·k_i``, with the a, b, b* and c of the paper; where its norm is at most 1 the step is taken. The next is
    ``0.9·norm^(−1/5)`` times as long, a fifth to five times.

    The tolerances bound the root mean square over a sample of ``error/(atol + rtol·|z|)`` in one step, z = x/(α+σ). The grid's nodes are
    where the solution is read; accuracy does not depend on them, ``steps=1`` is the cheapest. The move to clean data stops at
    σ/α = √rtol (or where the path ends) and returns the estimate of x0 there, which is off by O(σ²/α²).
    :attr:`Step.evaluations <reverie.solve.Step>` is then a tensor (B,).
    """

    rtol: float = 1e-5
    atol: float = 1e-5

    def __post_init__(self) -> None:
        if not (0.0 < self.rtol < 1.0 and self.atol > 0.0):
            raise InputError(f"tolerances are positive and rtol is below 1: got rtol={self.rtol}, atol={self.atol}")

    def plan(self, schedule: Schedule, walk: Walk) -> Plan:
        steps: list[PlanStep] = []
        for move in walk:
            at, to = move.at, move.to
            if move.kind == "renoise":
                steps.append(renoise(at, to))
                continue
            if at.sigma == 0.0:
                raise InputError("clean data has no noise to start from: take a grid that ends at a finite logsnr")
            if to.sigma > 0.0:
                steps.append(PlanStep(Interval(at, to, schedule), (), to, True))
                continue
            last = schedule.at(min(-0.5 * math.log(self.rtol), schedule.lam(0.0)))
            if last.lam > at.lam:
                steps.append(PlanStep(Interval(at, last, schedule), (), last, False))
                at = last
            steps.append(first_order(at, to, STRAIGHT.pair, to.alpha, 0.0))
        return Plan(walk[0].at, tuple(steps), 1)

    def init(self, x: Tensor, plan: Plan) -> Adaptive:
        return Adaptive(x, None, torch.zeros(len(x), dtype=torch.int64))

    def step(self, denoise: Bound, state: Adaptive, row: Interval | Row, noise: Sequence[Tensor]) -> Adaptive:
        if isinstance(row, Row):
            term = noise[0] if row.point is None else denoise(state.x, row.point).linear(*row.pair)
            weight = row.s if row.point is None else row.w[0]
            spent = torch.full_like(state.spent, row.point is not None)
            return Adaptive(combine((row.c, weight), (state.x, term)), state.h, spent)

        def field(tau: Tensor, z: Tensors) -> Tensors:
            point = straight_point(row.schedule, tau, z[0])
            return (denoise(z[0] * (point.alpha + point.sigma), point).linear(*STRAIGHT.pair),)

        z = (state.x / STRAIGHT.scale(row.point),)
        (z_end,), h, spent = integrate(field, row.point.tau, row.to.tau, z, state.h, self.rtol, self.atol)
        return Adaptive(z_end * STRAIGHT.scale(row.to), h, spent)

    def result(self, state: Adaptive) -> Tensor:
        return state.x


def straight_point(schedule: Schedule, tau: Tensor, x: Tensor) -> Point:
    """The per-sample point at ``tau`` (B,), computed in float64 on the host and broadcast over ``x``."""
    point = schedule.at(torch.log1p(-tau) - torch.log(tau))
    return Point(*(onto(field, x) for field in point)).align(x)


def integrate(
    field: Field, start: float, end: float, state: Tensors, h: Tensor | None, rtol: float, atol: float
) -> tuple[Tensors, Tensor, Tensor]:
    """Integrate from ``start`` to ``end`` in either direction.

    Args:
        field: slopes of the state.
        state: tensors with B rows; the error of a sample is the largest over them.
        h: (B,) positive step sizes to try first; None to choose them from the state and its slope.

    Returns:
        The state at ``end``, the step sizes to go on with and the evaluations of each sample, (B,) on the host.

    Raises:
        InputError: when the slope is not finite at the start.
        RunError: when a step size underflows.
    """
    tau = torch.full((len(state[0]),), start, dtype=torch.float64)
    slope = field(tau, state)
    if not all(bool(k.isfinite().all()) for k in slope):
        raise InputError(
            "the estimate is not finite at the start of the integration: start from a finite logsnr, "
            "or use a network that predicts x0, v or the flow velocity"
        )
    h = _first_step(state[0], slope[0], rtol, atol) if h is None else h
    spent = torch.ones(len(tau), dtype=torch.int64)
    direction = math.copysign(1.0, end - start)
    while bool((active := tau != end).any()):
        left = (end - tau).abs()
        step = direction * torch.minimum(h, left)
        arrived = torch.where(h >= left, end, tau + step)
        slopes, moved, at = [slope], state, tau
        for node, weights in zip(_NODES, _STAGES, strict=True):
            moved = _add(state, step, weights, slopes)
            at = arrived if node == 1.0 else tau + node * step
            slopes.append(field(at, moved))
        error = torch.stack([
            _norm(step, combine(_ERROR, ks), x, new, rtol, atol)
            for x, new, ks in zip(state, moved, zip(*slopes, strict=True), strict=True)
        ]).amax(0)  # fmt: skip
        accept = active & (error <= 1.0)
        factor = (0.9 * error.clamp(min=1e-10) ** -0.2).nan_to_num(0.2).clamp(0.2, 5.0)
        tried = step.abs() * factor
        # a step that was cut at a node says nothing against the size it was cut from
        h = torch.where(accept, torch.where(h >= left, torch.maximum(h, tried), tried), torch.where(active, tried, h))
        if bool((h < 1e-13).any()):
            raise RunError("RK45 found no step small enough: the estimate is not finite or jumps, or rtol is too small")
        tau = torch.where(accept, arrived, tau)
        state = tuple(torch.where(_rows(accept, x), new, x) for x, new in zip(state, moved, strict=True))
        slope = tuple(torch.where(_rows(accept, k), new, k) for k, new in zip(slope, slopes[-1], strict=True))
        spent = spent + len(_STAGES) * active
    return state, h, spent


def _add(state: Tensors, step: Tensor, weights: Sequence[float], slopes: Sequence[Tensors]) -> Tensors:
    """``state + h·Σ wᵢ·kᵢ``."""
    return tuple(
        x + align(step, x) * combine(weights, ks) for x, ks in zip(state, zip(*slopes, strict=True), strict=True)
    )


def _norm(step: Tensor, error: Tensor, x: Tensor, new: Tensor, rtol: float, atol: float) -> Tensor:
    """Root mean square over each sample of the scaled error, (B,) float64 on the host."""
    with torch.no_grad():
        scale = atol + rtol * torch.maximum(x.abs(), new.abs())
        return (error / scale).reshape(len(x), -1).square().mean(1).sqrt().cpu().double() * step.abs()


def _first_step(x: Tensor, slope: Tensor, rtol: float, atol: float) -> Tensor:
    """A hundredth of the state's size over its slope's (Hairer, Nørsett & Wanner 1993, II.4)."""
    one = torch.ones(len(x), dtype=torch.float64)
    size, rate = _norm(one, x, x, x, rtol, atol), _norm(one, slope, x, x, rtol, atol)
    return (0.01 * size / rate).nan_to_num(1e-6).clamp(1e-6, 0.1)


def _rows(mask: Tensor, x: Tensor) -> Tensor:
    return mask.to(x.device).reshape(-1, *(1,) * (x.ndim - 1))
