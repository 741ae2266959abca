"""Fixed-point refinement: each inverting move is made the inverse of the decoding one (Pan et al. 2023, "Effective real image editing with
accelerated iterative diffusion inversion"; Garibi et al. 2024, "ReNoise", without its averaging).

DDIM decodes u→t by x_t = c·x_u + w·y(x_u, u). Inverting it is an equation for x_u, of which plain inversion takes y at the wrong end. Its
solution is the fixed point of x_u ← (x_t − w·y(x_u, u))/c, which contracts where the move is short. :class:`Midpoint` does the same for a
rule that reads alike from both ends, the implicit midpoint: of order 2, and its own inverse.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser
from reverie.core.errors import InputError
from reverie.core.schedules import HostPoint, Schedule
from reverie.core.tensors import combine
from reverie.edit.inversion.ode import along
from reverie.edit.inversion.record import Inversion
from reverie.solve.grids import Grid
from reverie.solve.plan import Bound, Move, Plan, PlanStep, State, Walk, first_order
from reverie.solve.variables import STRAIGHT


class Implicit(NamedTuple):
    """A move, and the point of the estimate that its end has to agree with."""

    at: HostPoint
    to: HostPoint
    point: HostPoint


@dataclass(frozen=True)
class _Iterated:
    iterations: int = 5

    def __post_init__(self) -> None:
        if self.iterations < 0:
            raise InputError(f"iterations is at least 0: got {self.iterations}")

    def plan(self, schedule: Schedule, walk: Walk) -> Plan:
        if any(move.kind == "renoise" for move in walk):
            raise InputError("an inversion draws no noise: its walk cannot renoise")
        steps = []
        for move in walk:
            row = Implicit(move.at, move.to, self._point(schedule, move))
            cost = 1 if row.point == move.at else 1 + self.iterations
            steps.append(PlanStep(row, (), move.to, True, cost))
        return Plan(walk[0].at, tuple(steps), 1)

    def _point(self, schedule: Schedule, move: Move) -> HostPoint:
        raise NotImplementedError

    def init(self, x: Tensor, plan: Plan) -> State:
        return State(x, ())

    def step(self, denoise: Bound, state: State, row: Implicit, noise: Sequence[Tensor]) -> State:
        x, (at, to, point) = state.x, row
        explicit = first_order(at, to, STRAIGHT.pair, to.alpha, to.sigma).row
        end = combine((explicit.c, *explicit.w), (x, denoise(x, at).linear(*STRAIGHT.pair)))
        if point == at:
            return State(end, ())
        for _ in range(self.iterations):
            y = denoise(self._between(x, end, row), point).linear(*STRAIGHT.pair)
            end = combine((explicit.c, *explicit.w), (x, y))
        return State(end, ())

    def _between(self, x: Tensor, end: Tensor, row: Implicit) -> Tensor:
        raise NotImplementedError

    def result(self, state: State) -> Tensor:
        return state.x


class FixedPoint(_Iterated):
    """DDIM towards the data; away from it the move whose decoding comes back, by ``iterations`` of the fixed point."""

    def _point(self, schedule: Schedule, move: Move) -> HostPoint:
        return move.to if move.kind == "invert" else move.at

    def _between(self, x: Tensor, end: Tensor, row: Implicit) -> Tensor:
        return end


class Midpoint(_Iterated):
    """The implicit midpoint rule in ε − x0 and τ = σ/(α + σ), both ways, by ``iterations`` of its fixed point."""

    def _point(self, schedule: Schedule, move: Move) -> HostPoint:
        tau = 0.5 * (move.at.tau + move.to.tau)
        return schedule.at(math.log1p(-tau) - math.log(tau))

    def _between(self, x: Tensor, end: Tensor, row: Implicit) -> Tensor:
        scales = (p.alpha + p.sigma for p in row)
        at, to, mid = scales
        return combine((0.5 * mid / at, 0.5 * mid / to), (x, end))


def fixed_point(
    denoise: Denoiser,
    images: Tensor,
    cond: Cond | None = None,
    steps: int = 50,
    grid: Grid | str | None = None,
    *,
    iterations: int = 5,
    midpoint: bool = False,
    scale: float = 1.0,
) -> Inversion:
    """Invert so that decoding comes back, to the accuracy of the iteration, under the same guidance.

    Args:
        denoise: the model, unguided.
        images: (n, C, H, W) in [−1, 1].
        cond: of the pictures: one for all, or one a picture.
        steps, grid: as of :func:`reverie.solve.sample`.
        iterations: evaluations of each inverting move, besides the one that it begins with.
        midpoint: use the implicit midpoint rule both ways, in place of DDIM: a smaller error of the flow itself.
        scale: of guidance, both ways. The iteration contracts the less the larger it is; beyond about 3 it may not.

    Raises:
        InputError: as :func:`reverie.solve.invert`.
    """
    solver = Midpoint(iterations) if midpoint else FixedPoint(iterations)
    scale = 1.0 if cond is None else scale
    return along(denoise, images, cond, steps, solver, grid, method="fixed_point", scale=scale, within=True)
