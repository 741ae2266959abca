"""Walks: sequences of solve and renoise moves over given points. Any solver runs them: ``sample(..., walk=...)``."""

import math
from collections.abc import Sequence

from reverie.core.errors import InputError
from reverie.core.schedules import HostPoint, Schedule
from reverie.solve import grids
from reverie.solve.plan import Move, Walk, plain
from reverie.solve.stochastic import Stochastic

Interval = tuple[float, float]
"""(low, high) in logsnr."""


def repaint(points: Sequence[HostPoint], jump: int = 10, repeat: int = 10) -> Walk:
    """RePaint's time travel (Lugmayr et al. 2022, algorithm 1): each stretch of ``jump`` moves is walked ``repeat`` times.

    After each stretch x is renoised by one move to where the stretch began, the exact composition of the paper's single steps. 250 steps
    with jump = repeat = 10 are their 2,410 evaluations.
    """
    if jump < 1 or repeat < 1:
        raise InputError(f"jump and repeat are at least 1: got {jump} and {repeat}")
    last = len(points) - 1
    left = dict.fromkeys(range(last, jump, -jump), repeat - 1)
    walk, i = [], 0
    while i < last or left.get(i):
        if left.get(i):
            left[i] -= 1
            walk.append(Move("renoise", points[i], points[i - jump]))
            i -= jump
        else:
            walk.append(Move("solve", points[i], points[i + 1]))
            i += 1
    return tuple(walk)


def restart(schedule: Schedule, points: Sequence[HostPoint], interval: Interval, steps: int, times: int = 1) -> Walk:
    """Restart sampling (Xu et al. 2023, algorithm 1): from the first point past logsnr ``high`` back to ``low``, and down again.

    Args:
        points: the main grid.
        interval: (low, high) in logsnr.
        steps: of each way down, on a Karras grid between the two.
        times: how often.
    """
    low, high = interval
    at = next((i for i, p in enumerate(points) if p.logsnr >= high and math.isfinite(p.lam)), None)
    if at is None or not low < high:
        raise InputError(
            f"restart goes from a point past logsnr {high:g} back to {low:g}: no finite point of the grid is there"
        )
    inner = (*grids.karras(start=low, end=points[at].logsnr)(schedule, steps)[:-1], points[at])
    again = (Move("renoise", points[at], inner[0]), *plain(inner))
    return (*plain(points[: at + 1]), *again * times, *plain(points[at:]))


def churn(
    schedule: Schedule, points: Sequence[HostPoint], amount: float = 40.0, interval: Interval = (-math.inf, math.inf)
) -> Walk:
    """Stochastic churn (Karras et al. 2022, algorithm 2): before each move, noise up to ``σ̂ = (1 + γ)σ``, γ = min(amount/N, √2 − 1).

    Args:
        amount: S_churn, over the whole walk of N moves.
        interval: (low, high) in logsnr in which noise is added. Nowhere is more added than the path has at its start.
    """
    gamma = min(amount / (len(points) - 1), math.sqrt(2.0) - 1.0)
    walk: list[Move] = []
    for move in plain(points):
        lam = max(move.at.lam - math.log1p(gamma), schedule.lam(1.0))
        if interval[0] <= move.at.logsnr <= interval[1] and lam < move.at.lam:
            hat = schedule.at(lam)
            walk += [Move("renoise", move.at, hat), Move("solve", hat, move.to)]
        else:
            walk.append(move)
    return tuple(walk)


def ancestral(schedule: Schedule, points: Sequence[HostPoint], policy: Stochastic | None = None) -> Walk:
    """Any deterministic solver made stochastic: each move solves past its end, to ``keep`` times the noise, and renoises the rest.

    Both halves keep exact marginals exact, so a one-step solver keeps its order; with the first-order one this is DDIM(η). The policy is
    the reverse SDE by default.
    """
    policy = Stochastic() if policy is None else policy
    walk: list[Move] = []
    for move in plain(points):
        keep = 1.0 if move.to.sigma == 0.0 else policy.mix(move.at, move.to).keep
        lam = move.to.lam - math.log(keep) if keep else math.inf
        if keep == 1.0:
            walk.append(move)
            continue
        past = schedule.at(lam) if lam < schedule.lam(0.0) else schedule.clean()
        walk += [Move("solve", move.at, past), Move("renoise", past, move.to)]
    return tuple(walk)
