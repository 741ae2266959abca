"""Inversion: the deterministic solver on the grid turned round takes an image to the noise that it would be drawn from.

It is not an algebraic inverse: encoding and decoding each make the solver's error, so a round trip comes back to the order of the solver.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser, Under
from reverie.core.errors import InputError
from reverie.core.flow_map import FlowMap
from reverie.core.schedules import HostPoint, Schedule
from reverie.core.tensors import check_range
from reverie.solve import ending
from reverie.solve.auto import choose
from reverie.solve.grids import Grid
from reverie.solve.iterating import Step, iterate
from reverie.solve.plan import PlanStep, Solver, TableSolver, Walk, first_order, plain
from reverie.solve.rungekutta import Heun
from reverie.solve.variables import STRAIGHT

END = 2.0 * math.log(1000.0)
"""Default logsnr that an image is taken to have: σ/α = 10⁻³, an eighth of an 8-bit level."""


@dataclass(frozen=True)
class ShiftedDDIM(TableSolver):
    """DDIM whose inversion tells the network the time of the *next*, noisier level: ``x_u = α_u·x0 + σ_u·ε`` from net(x_t, time u).

    This is the inversion of null-text inversion and of the libraries after it (Mokady et al. 2023; Song et al. 2021, §4.3 has none): the
    coefficients are those of the true level t, only the label moves, so that each move asks the network for what the decoding move
    u→t asks at the same label. Towards the data it is plain DDIM.
    """

    def rows(self, schedule: Schedule, points: Sequence[HostPoint]) -> list[PlanStep]:
        steps = []
        for at, to in pairwise(points):
            step = first_order(at, to, STRAIGHT.pair, to.alpha, to.sigma)
            if to.lam < at.lam:
                step = step._replace(row=step.row._replace(point=at._replace(t=to.t, lam=to.lam)))
            steps.append(step)
        return steps


class RoundTrip(NamedTuple):
    """``reconstruction`` like the images, and ``error`` (B,): the root mean square of its difference from each image."""

    reconstruction: Tensor
    error: Tensor


def data_point(schedule: Schedule) -> HostPoint:
    """Where data is taken to lie: at :data:`END`, or at the end of the path if that comes first."""
    return schedule.at(min(0.5 * END, schedule.lam(0.0)))


def outward(schedule: Schedule, grid: Grid, steps: int) -> tuple[HostPoint, ...]:
    """The grid's points from data to noise. Clean data, where λ is infinite, gives way to :func:`data_point`."""
    points = grid(schedule, steps)
    first = points[-1] if math.isfinite(points[-1].lam) else data_point(schedule)
    # a node that only rounding sets apart from the first would make a step of no length
    inner = [point for point in points[-2::-1] if point.lam < first.lam - 1e-6]
    if not inner:
        raise InputError(
            f"the grid has no point with more noise than logsnr {2 * first.lam:.4g}, where inversion starts"
        )
    return first, *inner


def turned(solver: Solver, schedule: Schedule, points: Sequence[HostPoint]) -> Walk:
    """The walk over ``points`` from data to noise.

    Raises:
        InputError: when the solver draws noise on the way back.
    """
    if any(step.draws for step in solver.plan(schedule, plain(points[::-1])).steps):
        raise InputError(
            f"{solver} draws noise, which cannot be turned round: use a deterministic solver, such as Heun()"
        )
    return plain(points)


def check_flow(denoise: Any, what: str) -> None:
    """Raise an :class:`InputError` for a flow map, of which inversion and likelihood have no meaning."""
    if isinstance(denoise, FlowMap):
        raise InputError(
            f"{what} follows the velocity of a flow step by step, and a {type(denoise).__name__} is a leap that knows the way to the data "
            f"only: {what.lower()} has a meaning for the model that it was distilled from, such as rv.load(RUN) gives of its teacher"
        )


def invert(
    denoise: Denoiser,
    images: Tensor,
    steps: int = 50,
    cond: Cond | None = None,
    solver: Solver | str | None = None,
    grid: Grid | str | None = None,
) -> Tensor:
    """The noise that ``sample(denoise, x=code, grid=grid, steps=steps, scale=1)`` decodes to ``images``, up to the solver's error.

    Args:
        denoise: the model; a guided one is inverted under its guidance, which amplifies errors: scale 1 is the usual choice.
        images: (B, C, H, W) in [−1, 1].
        steps: intervals of the grid.
        cond: one condition for all, or one an image.
        solver: any deterministic one, or its name; Heun's method in the straight variable by default. :class:`ShiftedDDIM` is the
            literature's variant.
        grid: by default the one of :func:`sample` at so many steps. If it ends at clean data, the image is taken to be the state at
            logsnr :data:`END` instead (or where the path ends, if that comes first); a grid with a finite ``end`` starts there.

    Returns:
        ``(B, *denoise.shape)`` in the diffused space, of standard deviation about σ at the grid's start.

    Raises:
        InputError: for a flow map, a solver that draws noise, a shape or condition that does not fit, or images that are not finite
            or far outside [−1, 1].
        RunError: when the noise is not finite, as :func:`sample`.
    """
    check_flow(denoise, "Inversion")
    check_range(images, "images")
    solver, grid = choose(denoise, Heun("straight") if solver is None else solver, grid, steps)
    if isinstance(solver, ShiftedDDIM) and any(isinstance(inner, Under) for inner in chain(denoise)):
        raise InputError(
            "ShiftedDDIM shifts the network's time on its own path: invert the denoiser before .under(...)"
        )
    points = outward(denoise.schedule, grid, steps)
    walk = turned(solver, denoise.schedule, points)
    x = points[0].alpha * denoise.space.encode(
        images.to(denoise.device, torch.promote_types(images.dtype, torch.float32))
    )
    return _run(denoise, images, lambda: iterate(denoise, cond=cond, solver=solver, x=x, walk=walk)).x


def _run(denoise: Denoiser, given: Tensor, run: Callable[[], Iterable[Step]]) -> Step:
    """The last step of a run, checked as :func:`sample` does."""
    *_, last = run()
    ending.check_finite(denoise, last.x, given, run)
    return last


def round_trip(
    denoise: Denoiser,
    images: Tensor,
    steps: int = 50,
    cond: Cond | None = None,
    solver: Solver | str | None = None,
    grid: Grid | str | None = None,
) -> RoundTrip:
    """Encode with :func:`invert`, decode with the same solver on the same grid, and report the error. Arguments as there.

    On a grid with a finite end the decoded state is divided by its α: the error has no floor, encoding began at the same place.
    """
    solver = Heun("straight") if solver is None else solver
    code = invert(denoise, images, steps, cond, solver, grid)
    last = _run(denoise, images, lambda: iterate(denoise, cond=cond, solver=solver, steps=steps, grid=grid, x=code))
    back = denoise.space.decode(last.x / last.to.alpha)
    error = (back - images.to(back)).flatten(1).square().mean(1).sqrt()
    return RoundTrip(back, error)


def chain(denoise: Denoiser) -> list[Denoiser]:
    """The denoiser and all that it wraps, from the outside in."""
    found = [denoise]
    while (base := vars(found[-1]).get("base")) is not None:
        found.append(base)
    return found
