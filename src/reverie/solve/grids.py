"""Grids: where along the path the steps are taken. A grid is callable, ``grid(schedule, steps) -> steps + 1 points``.

Every grid has ``start`` and ``end`` in logsnr. By default it starts at pure noise (or at the schedule's finite default where its variable
is infinite there) and ends at clean data, so that the last step returns the estimate of x0.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from reverie.core.bounds import STEPS
from reverie.core.errors import InputError
from reverie.core.schedules import HostPoint, Schedule


@runtime_checkable
class Grid(Protocol):
    """``grid(schedule, steps)`` gives the ``steps + 1`` points of a run from noise to data; hashable."""

    @property
    def start(self) -> float | None: ...
    @property
    def end(self) -> float | None: ...
    def __call__(self, schedule: Schedule, steps: int) -> tuple[HostPoint, ...]: ...


def check(steps: int) -> None:
    """Raise an :class:`InputError` unless ``steps`` is a whole number within :data:`~reverie.core.bounds.STEPS`."""
    if isinstance(steps, bool) or not isinstance(steps, int) or STEPS.broken(steps):
        raise InputError(f"steps is a whole number of at least {STEPS.ge} and at most {STEPS.le:,}: got {steps!r}")


@dataclass(frozen=True)
class time:
    """Uniform in t."""

    start: float | None = None
    end: float | None = None

    def __call__(self, schedule: Schedule, steps: int) -> tuple[HostPoint, ...]:
        check(steps)
        first = schedule.point(1.0) if self.start is None else schedule.at(0.5 * self.start)
        last = schedule.clean() if self.end is None else schedule.at(0.5 * self.end)
        inner = np.linspace(float(first.t), float(last.t), steps + 1)[1:-1]
        return first, *(schedule.point(float(t)) for t in inner), last


@dataclass(frozen=True)
class logsnr:
    """Uniform in λ between the schedule's finite ends, then clean data (Lu et al. 2022)."""

    start: float | None = None
    end: float | None = None

    def __call__(self, schedule: Schedule, steps: int) -> tuple[HostPoint, ...]:
        return _warped(self, schedule, steps, lambda lam: lam, lambda lam: lam)


@dataclass(frozen=True)
class karras:
    """Uniform in ``(σ/α)^(1/ρ)`` (Karras et al. 2022, eq. 5), then clean data."""

    rho: float = 7.0
    start: float | None = None
    end: float | None = None

    def __call__(self, schedule: Schedule, steps: int) -> tuple[HostPoint, ...]:
        return _warped(
            self, schedule, steps, lambda lam: math.exp(-lam / self.rho), lambda level: -self.rho * math.log(level)
        )


@dataclass(frozen=True)
class logistic:
    """Points of density ``sech²((λ − center)/2w)`` in λ, with the width w = ``below`` the center and ``above`` it.

    Its integral u(λ) is a logistic curve on either side, finite at pure noise and at clean data; the grid is uniform in it. Without ``end``
    the points are those towards λ = ``reach`` (or the largest that the path has), and the last one is clean data in its place.
    """

    center: float = 1.1
    below: float = 1.6
    above: float = 1.6
    reach: float = 6.0
    start: float | None = None
    end: float | None = None

    def u(self, lam: float) -> float:
        """u(λ) in [0, 1], also at ±∞."""
        width = self.below if lam < self.center else self.above
        return (self.below + width * math.tanh(0.5 * (lam - self.center) / width)) / (self.below + self.above)

    def lam(self, u: float) -> float:
        """λ(u) for u in (0, 1)."""
        rise = u * (self.below + self.above) - self.below
        width = self.below if rise < 0.0 else self.above
        return self.center + 2.0 * width * math.atanh(rise / width)

    def __call__(self, schedule: Schedule, steps: int) -> tuple[HostPoint, ...]:
        check(steps)
        first = schedule.point(1.0) if self.start is None else schedule.at(0.5 * self.start)
        last = schedule.clean() if self.end is None else schedule.at(0.5 * self.end)
        high = (
            min(self.reach if first.lam < self.reach else math.inf, schedule.lam(0.0)) if self.end is None else last.lam
        )
        inner = np.linspace(self.u(first.lam), self.u(high), steps + 1)[1:-1]
        return first, *(schedule.at(self.lam(float(u))) for u in inner), last


_FIRST, _LAST = -4.3, 4.6052
_MOST = 22
FITTED: dict[int, tuple[tuple[float, ...], tuple[float, ...]]] = {
    5: (
        (-2.131, -0.37, 0.886, 2.661),
        (0.35, 0.025, 0.056, 0.052),
    ),
    7: (
        (-1.985, -0.777, 0.176, 1.251, 2.089, 3.391),
        (1.115, 0.591, 0.893, 0.856, 0.818, 0.505),
    ),
    10: (
        (-2.253, -1.212, -0.481, -0.012, 0.532, 1.243, 1.619, 2.373, 3.573),
        (1.122, 0.867, 0.948, 0.877, 0.931, 1.041, 0.949, 0.757, 0.551),
    ),
    14: (
        (-2.635, -1.613, -0.925, -0.468, -0.108, 0.28, 0.74, 1.196, 1.657, 1.969, 2.371, 2.949, 3.947),
        (0.992, 0.898, 1.014, 0.949, 0.903, 0.897, 0.921, 0.977, 0.953, 0.938, 0.898, 0.836, 0.938),
    ),
    20: (
        (-2.912, -1.903, -1.166, -0.718, -0.402, -0.125, 0.1, 0.355, 0.626, 0.909, 1.177, 1.432, 1.698, 1.931, 2.195, 2.482,
         2.807, 3.408, 4.221),
        (0.983, 0.97, 1.012, 1.015, 1.071, 1.025, 0.984, 0.997, 1.008, 1.023, 1.043, 1.043, 0.951, 1.004, 1.008, 1.054, 0.968,
         0.94, 1.065),
    ),
}  # fmt: skip
"""Fitted inner nodes in λ and shares of the corrector at them, by the number of steps; the last step is to λ = 4.6 (σ/α = 0.01) or clean
data."""


def _around(steps: int) -> tuple[int, int, float]:
    """The tables on either side of ``steps``, and how far from the first to the second it lies."""
    below = max((n for n in FITTED if n <= steps), default=min(FITTED))
    above = min((n for n in FITTED if n >= steps), default=max(FITTED))
    return below, above, (steps - below) / (above - below) if below < steps < above else 0.0


def _curve(steps: int, count: int, stretch: float) -> np.ndarray:
    """τ at ``count + 1`` even places of the curve through the nodes for ``steps``, stretched from the last, linear in τ between them."""
    inner = (_LAST - stretch * (_LAST - lam) for lam in FITTED[steps][0])
    knots = [1.0 / (1.0 + math.exp(lam)) for lam in (_FIRST, *inner, _LAST)]
    return np.interp(np.linspace(0.0, steps, count + 1), np.arange(steps + 1.0), knots)


@dataclass(frozen=True)
class fitted:
    """Nodes fitted to mixtures and networks, for up to 22 steps: those of :data:`FITTED`, and between two tables the curves through both,
    divided evenly and mixed.

    A run from pure noise, or from any λ below −4.3, to clean data uses them as they are. With another ``start`` or ``end`` it is the curve
    through them that is divided. ``bench/default_grid.py`` makes the fit, of the nodes together with :meth:`shares`: descent on the mean
    log error, on other noises than the tables of the docs.

    ``earlier`` moves the nodes towards the noise, that at λ = −2.2 by so much and the others in proportion to their distance from the last.
    """

    start: float | None = None
    end: float | None = None
    earlier: float = 0.0

    def __call__(self, schedule: Schedule, steps: int) -> tuple[HostPoint, ...]:
        check(steps)
        if steps > _MOST:
            raise InputError(f"the fitted grid has 1 to {_MOST} steps: got {steps}; grids.logistic() has any")
        first = schedule.point(1.0) if self.start is None else schedule.at(0.5 * self.start)
        last = schedule.clean() if self.end is None else schedule.at(0.5 * self.end)
        below, above, share = _around(steps)
        a, b = (_curve(table, steps, 1.0 + self.earlier / (_LAST + 2.2)) for table in (below, above))
        knots = np.array([*((1.0 - share) * a + share * b), 0.0])
        places = np.arange(steps + 2.0)
        high = last.tau
        if self.end is None and first.lam < _LAST:
            high = 1.0 / (1.0 + math.exp(min(_LAST, schedule.lam(0.0))))
        ends = np.interp([first.tau, high], knots[::-1], places[::-1])
        inner = np.interp(np.linspace(float(ends[0]), float(ends[1]), steps + 1)[1:-1], places, knots)
        return first, *(schedule.at(math.log(1.0 / tau - 1.0)) for tau in inner), last

    @staticmethod
    def shares(steps: int) -> tuple[float, ...]:
        """Shares of the corrector at the inner nodes, for ``Multistep`` of the order of the fit: 3 up to 14 steps, 4 beyond."""
        below, above, share = _around(steps)
        places = np.arange(1.0, steps) / steps
        a, b = (np.interp(places, np.arange(1.0, n) / n, FITTED[n][1]) for n in (below, above))
        return tuple(((1.0 - share) * a + share * b).tolist())


@dataclass(frozen=True)
class quadratic:
    """Uniform in √t (Song et al. 2021, DDIM, appendix D): finer towards the data."""

    start: float | None = None
    end: float | None = None

    def __call__(self, schedule: Schedule, steps: int) -> tuple[HostPoint, ...]:
        check(steps)
        first = schedule.point(1.0) if self.start is None else schedule.at(0.5 * self.start)
        last = schedule.clean() if self.end is None else schedule.at(0.5 * self.end)
        inner = np.linspace(first.t**0.5, last.t**0.5, steps + 1)[1:-1] ** 2
        return first, *(schedule.point(float(t)) for t in inner), last


@dataclass(frozen=True)
class arctan:
    """Uniform in the angle ``arctan(σ/(α·scale))``: for Gaussian data of standard deviation ``scale`` each step loses equally much."""

    scale: float = 0.5
    start: float | None = None
    end: float | None = None

    def __call__(self, schedule: Schedule, steps: int) -> tuple[HostPoint, ...]:
        check(steps)
        first = schedule.point(1.0) if self.start is None else schedule.at(0.5 * self.start)
        last = schedule.clean() if self.end is None else schedule.at(0.5 * self.end)
        high, low = (math.atan2(p.sigma, p.alpha * self.scale) for p in (first, last))
        inner = np.tan(np.linspace(high, low, steps + 1)[1:-1])
        return first, *(schedule.at(-math.log(self.scale * r)) for r in inner), last


def _warped(
    grid: Grid, schedule: Schedule, steps: int, warp: Callable[[float], float], unwarp: Callable[[float], float]
) -> tuple[HostPoint, ...]:
    """Points uniform in ``warp(λ)``: between finite ends, or from the finite start to the finite default end and then clean data."""
    check(steps)
    low, high = schedule.lam_range()
    low = low if grid.start is None else 0.5 * grid.start
    high = high if grid.end is None else 0.5 * grid.end
    if not math.isfinite(low) or (not math.isfinite(high) and grid.end is not None):
        raise InputError(f"{type(grid).__name__} needs a finite logsnr, got start={grid.start}, end={grid.end}")
    count = steps + 1 if grid.end is not None else steps
    lams = [unwarp(float(v)) for v in np.linspace(warp(low), warp(high), count)]
    lams[0] = low
    if count > 1:
        lams[-1] = high
    points = tuple(schedule.at(lam) for lam in lams)
    return points if grid.end is not None else (*points, schedule.clean())
