"""EDICT: inversion that is exact in algebra, by two coupled states (Wallace et al. 2023, "EDICT: exact diffusion inversion via coupled
transformations", algorithm 1).

A DDIM move x_u = c·x_t + w·y(x_t) cannot be solved for x_t, for y is a network. With the estimate taken at the *other* state it can:

    x ← c·x + w·y(y-track),  y ← c·y + w·y(x-track),  x ← p·x + (1 − p)·y,  y ← p·y + (1 − p)·x,

each line is undone by arithmetic. p < 1 keeps the two from drifting apart and is what undoing amplifies, by 1/p twice a move: double
precision closes the round trip to rounding, single precision to a thousandth or so. The moves are written in ε − x0, which exists at pure
noise; the paper has ε. A state that has moved is brought back to the scale of the level that the network is told, by 1/c, so that the
method is the same on every path.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser
from reverie.core.errors import InputError
from reverie.core.progress import track
from reverie.core.schedules import Point, Schedule
from reverie.core.tensors import combine
from reverie.edit.guidance import guide
from reverie.edit.inversion.ode import begin
from reverie.edit.inversion.record import Inversion, described, kept
from reverie.solve.grids import Grid
from reverie.solve.plan import Bound, Plan, PlanStep, Row, Walk, first_order, plain
from reverie.solve.variables import STRAIGHT


class Coupled(NamedTuple):
    """The two states."""

    x: Tensor
    other: Tensor


class CoupledRow(NamedTuple):
    """The decoding move's row, whether it is undone, and which state goes first."""

    row: Row
    undo: bool
    swapped: bool

    @property
    def point(self) -> Point | None:
        return self.row.point


@dataclass(frozen=True, eq=False)
class EDICT:
    """The coupled solver; both ways two evaluations a move.

    Args:
        mix: p in (0, 1].
        second: the other track at the start, (B, …); the same as x without.
    """

    mix: float = 0.93
    second: Tensor | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.mix <= 1.0:
            raise InputError(f"mix is in (0, 1], 1 leaves the two states uncoupled: got {self.mix}")

    def plan(self, schedule: Schedule, walk: Walk) -> Plan:
        steps = []
        for i, move in enumerate(walk):
            if move.kind == "renoise":
                raise InputError("EDICT draws no noise: its walk cannot renoise")
            undo = move.kind == "invert"
            noisy, clean = (move.to, move.at) if undo else (move.at, move.to)
            left = i + 1 if undo else len(walk) - i  # moves to the data: the order alternates, as seen from there
            row = first_order(noisy, clean, STRAIGHT.pair, clean.alpha, clean.sigma).row
            steps.append(PlanStep(CoupledRow(row, undo, left % 2 == 0), (), move.to, True, 2))
        return Plan(walk[0].at, tuple(steps), 1)

    def init(self, x: Tensor, plan: Plan) -> Coupled:
        return Coupled(x, x if self.second is None else self.second)

    def step(self, denoise: Bound, state: Coupled, row: CoupledRow, noise: Sequence[Tensor]) -> Coupled:
        p, (point, pair, c, (w,), _) = self.mix, row.row
        assert point is not None

        def y(x: Tensor) -> Tensor:
            return denoise(x, point).linear(*pair)

        a, b = state[::-1] if row.swapped else state
        if row.undo:
            b = combine((1.0 / p, 1.0 - 1.0 / p), (b, a))
            a = combine((1.0 / p, 1.0 - 1.0 / p), (a, b))
            b = combine((1.0 / c, -w / c), (b, y(a / c)))
            a = combine((1.0 / c, -w / c), (a, y(b)))
        else:
            a = combine((c, w), (a, y(b)))
            b = combine((c, w), (b, y(a / c)))
            a = combine((p, 1.0 - p), (a, b))
            b = combine((p, 1.0 - p), (b, a))
        return Coupled(b, a) if row.swapped else Coupled(a, b)

    def result(self, state: Coupled) -> Tensor:
        return state.x


@torch.no_grad()
def edict(
    denoise: Denoiser,
    images: Tensor,
    cond: Cond | None = None,
    steps: int = 50,
    grid: Grid | str | None = None,
    *,
    scale: float = 3.0,
    mix: float = 0.93,
) -> Inversion:
    """Invert exactly, under guidance.

    Args:
        denoise: the model, unguided.
        images: (n, C, H, W) in [−1, 1].
        cond: of the pictures: one for all, or one a picture; needed for a scale other than 1.
        steps, grid: as of :func:`reverie.solve.sample`.
        scale: of guidance, both ways.
        mix: p.

    Raises:
        InputError: as :func:`reverie.solve.invert`.
    """
    solver = EDICT(mix)
    x, cond, _, points = begin(denoise, images, cond, steps, solver, grid)
    scale = 1.0 if cond is None else scale
    guided = guide(denoise, scale)
    plan = solver.plan(denoise.schedule, plain(points[::-1]))
    states = [solver.init(x, plan)]
    for step in track(plan.steps, "inverting", len(plan.steps), "moves"):
        states.append(solver.step(lambda x, point: guided(x, point, cond), states[-1], step.row, ()))
    first, second = (torch.stack(states_[::-1]) for states_ in zip(*states, strict=True))
    return Inversion(
        method="edict",
        model=described(denoise),
        solver=solver,
        guidance=scale,
        cond=cond,
        points=points,
        images=kept(images),
        trajectory=first,
        second=second,
    )
