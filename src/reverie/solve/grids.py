"""Grids: where along the path the steps are taken. A grid is callable, ``grid(schedule, steps) -> steps + 1 points``.

Every grid has ``start`` and ``end`` in logsnr. By default it starts at pure noise (or at the schedule's finite default where its variable
is infinite there) and ends at clean data, so that the last step returns the estimate of x0.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from operator import index
from typing import Protocol, get_args, runtime_checkable

import numpy as np

from reverie.core.bounds import STEPS
from reverie.core.errors import InputError, unknown
from reverie.core.names import GridName
from reverie.core.schedules import HostPoint, Schedule
from reverie.solve.nodes import FITTED


@runtime_checkable
class Grid(Protocol):
    """``grid(schedule, steps)`` gives the ``steps + 1`` points of a run from noise to data; hashable."""

    @property
    def start(self) -> float | None: ...
    @property
    def end(self) -> float | None: ...
    def __call__(self, schedule: Schedule, steps: int) -> tuple[HostPoint, ...]: ...


def check_steps(steps: int) -> None:
    """Raise an :class:`InputError` unless ``steps`` is a whole number within :data:`~reverie.core.bounds.STEPS`."""
    if isinstance(steps, bool) or not hasattr(steps, "__index__") or STEPS.broken(index(steps)):
        raise InputError(f"steps is a whole number of at least {STEPS.ge} and at most {STEPS.le:,}: got {steps!r}")


def named(grid: Grid | str) -> Grid:
    """The grid of that name with its usual settings; a grid is itself.

    Raises:
        InputError: for an unknown name, with the nearest one, or something that is no grid.
    """
    if isinstance(grid, str):
        if grid not in get_args(GridName):
            raise unknown("grid", grid, get_args(GridName))
        return globals()[grid]()
    if isinstance(grid, type) or not callable(grid):
        raise InputError(f"a grid is a name, such as 'karras', or made by a call, such as grids.karras(): got {grid!r}")
    return grid


def _ends(grid: Grid, schedule: Schedule) -> tuple[HostPoint, HostPoint]:
    """Where a grid starts and ends: pure noise and clean data, unless it says."""
    first = schedule.point(1.0) if grid.start is None else schedule.at(0.5 * grid.start)
    return first, schedule.clean() if grid.end is None else schedule.at(0.5 * grid.end)


def _times(
    grid: Grid, schedule: Schedule, steps: int, warp: Callable[[float], float], unwarp: Callable[[float], float]
) -> tuple[HostPoint, ...]:
    """Points uniform in ``warp(t)``."""
    check_steps(steps)
    first, last = _ends(grid, schedule)
    inner = np.linspace(warp(first.t), warp(last.t), steps + 1)[1:-1]
    return first, *(schedule.point(unwarp(float(v))) for v in inner), last


@dataclass(frozen=True)
class time:
    """Uniform in t: "trailing" times of a table (Lin et al. 2024, table 2)."""

    start: float | None = None
    end: float | None = None

    def __call__(self, schedule: Schedule, steps: int) -> tuple[HostPoint, ...]:
        return _times(self, schedule, steps, lambda t: t, lambda t: t)


simple = time
"""ComfyUI's name of :class:`time`, which it rounds to the entries of a table."""


@dataclass(frozen=True)
class normal:
    """Uniform in t down to the last time of the path's default range, t = 10⁻³, then clean data: "linspace" times of a table."""

    start: float | None = None
    end: float | None = None

    def __call__(self, schedule: Schedule, steps: int) -> tuple[HostPoint, ...]:
        check_steps(steps)
        if self.end is not None or steps == 1:
            return time(self.start, self.end)(schedule, steps)
        last = 2.0 * schedule.lam_range()[1]
        return *time(self.start, last)(schedule, steps - 1), schedule.clean()


@dataclass(frozen=True)
class sgm_uniform:
    """:class:`normal` with one step more, whose last point gives way to clean data (Stability AI's generative-models)."""

    start: float | None = None
    end: float | None = None

    def __call__(self, schedule: Schedule, steps: int) -> tuple[HostPoint, ...]:
        check_steps(steps)
        if self.end is not None:
            return time(self.start, self.end)(schedule, steps)
        last = 2.0 * schedule.lam_range()[1]
        return *time(self.start, last)(schedule, steps)[:-1], schedule.clean()


@dataclass(frozen=True)
class quadratic:
    """Uniform in √t (Song et al. 2021, DDIM, appendix D): finer towards the data."""

    start: float | None = None
    end: float | None = None

    def __call__(self, schedule: Schedule, steps: int) -> tuple[HostPoint, ...]:
        return _times(self, schedule, steps, math.sqrt, lambda root: root**2)


@dataclass(frozen=True)
class linear_quadratic:
    """Half of the steps uniform over the first ``threshold`` of the way in t, the others on the parabola that goes on from there
    (Genmo 2024, Mochi 1; Polyak et al. 2024, Movie Gen): ``u(i) = ci + (1 − cN)·(max(0, i − m)/(N − m))²`` with m = ⌊N/2⌋ and
    c = threshold/m. For video flow models, which decide early."""

    threshold: float = 0.025
    start: float | None = None
    end: float | None = None

    def __call__(self, schedule: Schedule, steps: int) -> tuple[HostPoint, ...]:
        check_steps(steps)
        first, last = _ends(self, schedule)
        half = max(1, steps // 2)
        slope = self.threshold / half
        way = [slope * i + (1.0 - slope * steps) * (max(0, i - half) / (steps - half)) ** 2 for i in range(1, steps)]
        return first, *(schedule.point(first.t + u * (last.t - first.t)) for u in way), last


@dataclass(frozen=True)
class beta:
    """Quantiles of a Beta(a, b) distribution of t (Lee et al. 2024, "Beta Sampling is All You Need"): dense at both ends where a, b < 1."""

    a: float = 0.6
    b: float = 0.6
    start: float | None = None
    end: float | None = None

    def __post_init__(self) -> None:
        if not (0.0 < self.a < math.inf and 0.0 < self.b < math.inf):
            raise InputError(f"a and b of a Beta distribution are positive: got {self.a} and {self.b}")

    def __call__(self, schedule: Schedule, steps: int) -> tuple[HostPoint, ...]:
        return _times(self, schedule, steps, self.u, self.t)

    def u(self, t: float) -> float:
        """The part of the distribution below t, the regularised incomplete beta function."""
        return _mass(t, self.a, self.b) if t <= 0.5 else 1.0 - _mass(1.0 - t, self.b, self.a)

    def t(self, u: float) -> float:
        """The quantile."""
        return _quantile(u, self.a, self.b) if u <= self.u(0.5) else 1.0 - _quantile(1.0 - u, self.b, self.a)


def _quantile(u: float, a: float, b: float) -> float:
    """Where :func:`_mass` is u, up to ½: by Newton's method in t^a, of which u is nearly a multiple."""
    scale, root, last = _scale(a, b), 1.0 / a, 0.5**a
    s = min(u * scale, last)
    for _ in range(50):
        t = s**root
        move = (u - _mass(t, a, b)) * scale * (1.0 - t) ** (1.0 - b)
        s = min(max(s + move, 0.0), last)
        if abs(move) <= 1e-15 * s:
            break
    return s**root


def _scale(a: float, b: float) -> float:
    """a·B(a, b)."""
    return a * math.exp(math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b))


def _mass(t: float, a: float, b: float) -> float:
    """``∫₀ᵗ x^(a−1)(1 − x)^(b−1) dx / B(a, b)`` for t ≤ ½, by the binomial series of the second factor."""
    term, total, k = 1.0, 1.0, 0
    while abs(term) > 1e-17 * abs(total):
        k += 1
        term *= t * (k - b) / k
        total += term * a / (a + k)
    return t**a * total / _scale(a, b)


@dataclass(frozen=True)
class logsnr:
    """Uniform in λ between the schedule's finite ends, then clean data (Lu et al. 2022)."""

    start: float | None = None
    end: float | None = None

    def __call__(self, schedule: Schedule, steps: int) -> tuple[HostPoint, ...]:
        return _warped(self, schedule, steps, lambda lam: lam, lambda lam: lam)


exponential = logsnr
"""The name of :class:`logsnr` in k-diffusion and diffusers, where σ/α falls as an exponential."""


@dataclass(frozen=True)
class polyexponential:
    """λ = high − (high − low)·(1 − i/N)^ρ between the schedule's finite ends, then clean data (k-diffusion); ρ = 1 is :class:`logsnr`."""

    rho: float = 1.0
    start: float | None = None
    end: float | None = None

    def __call__(self, schedule: Schedule, steps: int) -> tuple[HostPoint, ...]:
        return _warped(self, schedule, steps, lambda lam: lam, lambda lam: lam, self.rho)


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
        check_steps(steps)
        first, last = _ends(self, schedule)
        high = (
            min(self.reach if first.lam < self.reach else math.inf, schedule.lam(0.0)) if self.end is None else last.lam
        )
        inner = np.linspace(self.u(first.lam), self.u(high), steps + 1)[1:-1]
        return first, *(schedule.at(self.lam(float(u))) for u in inner), last


_FIRST, _LAST = -4.3, 4.6052
_MOST = 22


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
    through them that is divided. ``bench/default_grid.py`` makes the fit, of the nodes together with :meth:`corrector_weights`:
    descent on the mean log error, on other noises than the tables of the docs.

    ``earlier`` moves the nodes towards the noise, that at λ = −2.2 by so much and the others in proportion to their distance from the last.
    """

    start: float | None = None
    end: float | None = None
    earlier: float = 0.0

    def __call__(self, schedule: Schedule, steps: int) -> tuple[HostPoint, ...]:
        check_steps(steps)
        if steps > _MOST:
            raise InputError(f"the fitted grid has 1 to {_MOST} steps: got {steps}; grids.logistic() has any")
        first, last = _ends(self, schedule)
        below, above, mix = _around(steps)
        a, b = (_curve(table, steps, 1.0 + self.earlier / (_LAST + 2.2)) for table in (below, above))
        knots = np.array([*((1.0 - mix) * a + mix * b), 0.0])
        places = np.arange(steps + 2.0)
        high = last.tau
        if self.end is None and first.lam < _LAST:
            high = 1.0 / (1.0 + math.exp(min(_LAST, schedule.lam(0.0))))
        ends = np.interp([first.tau, high], knots[::-1], places[::-1])
        inner = np.interp(np.linspace(float(ends[0]), float(ends[1]), steps + 1)[1:-1], places, knots)
        return first, *(schedule.at(math.log(1.0 / tau - 1.0)) for tau in inner), last

    @staticmethod
    def corrector_weights(steps: int) -> tuple[float, ...]:
        """Weights of the corrector at the inner nodes, for ``Multistep`` of the order of the fit: 3 up to 14 steps, 4 beyond."""
        below, above, mix = _around(steps)
        places = np.arange(1.0, steps) / steps
        a, b = (np.interp(places, np.arange(1.0, n) / n, FITTED[n][1]) for n in (below, above))
        return tuple(((1.0 - mix) * a + mix * b).tolist())


@dataclass(frozen=True)
class arctan:
    """Uniform in the angle ``arctan(σ/(α·scale))``: for Gaussian data of standard deviation ``scale`` each step loses equally much."""

    scale: float = 0.5
    start: float | None = None
    end: float | None = None

    def __call__(self, schedule: Schedule, steps: int) -> tuple[HostPoint, ...]:
        check_steps(steps)
        first, last = _ends(self, schedule)
        high, low = (math.atan2(p.sigma, p.alpha * self.scale) for p in (first, last))
        inner = np.tan(np.linspace(high, low, steps + 1)[1:-1])
        return first, *(schedule.at(-math.log(self.scale * r)) for r in inner), last


@dataclass(frozen=True)
class kl_optimal:
    """Uniform in the angle ``arctan(σ/α)`` between the schedule's finite ends, then clean data (Sabour et al. 2024, theorem 3.1)."""

    start: float | None = None
    end: float | None = None

    def __call__(self, schedule: Schedule, steps: int) -> tuple[HostPoint, ...]:
        return _warped(
            self, schedule, steps, lambda lam: math.atan(math.exp(-lam)), lambda angle: -math.log(math.tan(angle))
        )


def _warped(
    grid: Grid,
    schedule: Schedule,
    steps: int,
    warp: Callable[[float], float],
    unwarp: Callable[[float], float],
    rho: float = 1.0,
) -> tuple[HostPoint, ...]:
    """Points uniform in ``warp(λ)`` (or as the ρ-th power of what is left): between finite ends, or from the finite start to the finite
    default end and then clean data."""
    check_steps(steps)
    low, high = schedule.lam_range()
    low = low if grid.start is None else 0.5 * grid.start
    high = high if grid.end is None else 0.5 * grid.end
    if not math.isfinite(low) or (not math.isfinite(high) and grid.end is not None):
        raise InputError(f"{type(grid).__name__} needs a finite logsnr, got start={grid.start}, end={grid.end}")
    count = steps + 1 if grid.end is not None else steps
    left = np.linspace(1.0, 0.0, count) ** rho
    lams = [unwarp(warp(high) + float(part) * (warp(low) - warp(high))) for part in left]
    lams[0] = low
    if count > 1:
        lams[-1] = high
    points = tuple(schedule.at(lam) for lam in lams)
    return points if grid.end is not None else (*points, schedule.clean())
