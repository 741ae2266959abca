"""The solver contract: a walk along the path becomes a table of rows, and one step turns one row.

Every explicit solver is one table with a row for each network evaluation,

    ``x ← c·x + Σ_j w_j·y_{−j} + s·z``,

where y is the prediction in the solver's own variable ``p·x0 + q·ε``, y_{−1}, y_{−2}, … are the earlier ones and z is noise. The table is
computed once, in float64 on the host; a step reads numbers and never waits for the device.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from reverie.core.errors import InputError
from reverie.core.estimate import Estimate
from reverie.core.noise import Span
from reverie.core.predictions import Pair
from reverie.core.schedules import HostPoint, Point, Schedule
from reverie.core.tensors import Scalar, combine

Bound = Callable[[Tensor, Point], Estimate]
"""A denoiser with its condition bound: what a step evaluates."""


class Move(NamedTuple):
    """One move of a walk: ``solve`` t→u towards the data, ``renoise`` u→t with fresh noise, or ``invert`` u→t along the ODE."""

    kind: Literal["solve", "renoise", "invert"]
    at: HostPoint
    to: HostPoint


Walk = tuple[Move, ...]
"""Moves, each starting where the one before ended. A grid is the plain walk; time travel, RePaint and Restart are others."""


def plain(points: Sequence[HostPoint]) -> Walk:
    """The walk that visits ``points`` in order, solving towards the data and inverting away from it."""
    return tuple(Move("solve" if float(b.lam) >= float(a.lam) else "invert", a, b) for a, b in pairwise(points))


class Row(NamedTuple):
    """The numbers of one step, host floats or () tensors. ``point`` is None for a move that evaluates nothing."""

    point: Point | None
    pair: Pair
    c: Scalar
    w: tuple[Scalar, ...]
    s: Scalar


class Draw(NamedTuple):
    """A noise tensor that a step needs: its stream on the tape and the λ interval of its move."""

    stream: str
    span: Span


class PlanStep(NamedTuple):
    """A row with what only the driver reads: the noise it needs, where x is afterwards, whether that is a node of the walk, its cost."""

    row: Any
    draws: tuple[Draw, ...]
    to: HostPoint
    node: bool
    evaluations: int = 1


@dataclass(frozen=True)
class Plan:
    """The table of a whole run. ``history`` is the number of predictions a step may combine, the newest included."""

    start: HostPoint
    steps: tuple[PlanStep, ...]
    history: int

    @property
    def evaluations(self) -> int:
        """Network evaluations a sample."""
        return sum(step.evaluations for step in self.steps)

    def tensors(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float64) -> list[Row]:
        """The rows as () tensors with weights padded to the full history: what a compiled step takes, one graph for all rows.

        Raises:
            InputError: for a state-dependent solver, whose rows are records of its own.
        """
        rows = []
        for step in self.steps:
            row: Row = step.row
            if not isinstance(row, Row):
                raise InputError(
                    f"a row of {type(row).__name__} has no tensor form: compile the network instead of the step"
                )
            point = row.point or (0.0,) * 6
            numbers = [*point, *row.pair, row.c, row.s, *row.w, *[0.0] * (self.history - len(row.w))]
            v = torch.tensor(numbers, dtype=dtype).to(device).unbind()
            rows.append(Row(row.point and Point(*v[:6]), (v[6], v[7]), v[8], tuple(v[10:]), v[9]))
        return rows


class State(NamedTuple):
    """The state x and the last predictions in the solver's variable, newest first, of fixed number."""

    x: Tensor
    history: tuple[Tensor, ...]


@runtime_checkable
class Solver(Protocol):
    """Builds the plan of a walk and turns its rows. The protocol that ``sample``, correctors and state-dependent methods share."""

    def plan(self, schedule: Schedule, walk: Walk) -> Plan: ...
    def init(self, x: Tensor, plan: Plan) -> Any: ...
    def step(self, denoise: Bound, state: Any, row: Any, noise: Sequence[Tensor]) -> Any: ...
    def result(self, state: Any) -> Tensor: ...


class TableSolver(ABC):
    """A solver that is a table: a subclass gives :meth:`rows`, and is a frozen dataclass."""

    @abstractmethod
    def rows(self, schedule: Schedule, points: Sequence[HostPoint]) -> list[PlanStep]:
        """The steps that visit ``points``, which run one way; the first has no history."""

    def plan(self, schedule: Schedule, walk: Walk) -> Plan:
        """The table of a walk. History is dropped wherever the walk turns round."""
        steps: list[PlanStep] = []
        i = 0
        while i < len(walk):
            if walk[i].kind == "renoise":
                steps.append(renoise(walk[i].at, walk[i].to))
                i += 1
                continue
            j = i
            while j < len(walk) and walk[j].kind == walk[i].kind:
                j += 1
            steps += self.rows(schedule, [walk[i].at, *(move.to for move in walk[i:j])])
            i = j
        return Plan(walk[0].at, tuple(steps), max(1, *(len(getattr(step.row, "w", ())) for step in steps)))

    def init(self, x: Tensor, plan: Plan) -> State:
        return State(x, (torch.zeros_like(x),) * (plan.history - 1))

    def step(self, denoise: Bound, state: State, row: Row, noise: Sequence[Tensor]) -> State:
        if row.point is None:
            return State(combine((row.c, row.s), (state.x, noise[0])), state.history)
        estimate = denoise(state.x, row.point)
        s = (row.s,) if noise else ()
        if not state.history:  # y = a·x + b·out is used once: its terms join the row's
            (w,), (a, b) = row.w, estimate.coefficients(*row.pair)
            return State(combine((row.c + w * a, w * b, *s), (state.x, estimate.out, *noise)), ())
        past = (estimate.linear(*row.pair), *state.history)
        x = combine((row.c, *row.w, *s), (state.x, *past[: len(row.w)], *noise))
        return State(x, past[:-1])

    def result(self, state: State) -> Tensor:
        return state.x


def span(at: HostPoint, to: HostPoint) -> Span:
    return float(at.lam), float(to.lam)


def renoise(at: HostPoint, to: HostPoint) -> PlanStep:
    """``x_t = (α_t/α_u)·x_u + √(σ_t² − (α_t/α_u)²σ_u²)·z``: back to more noise by the forward process, with a fresh draw."""
    c = to.alpha / at.alpha
    row = Row(None, (0.0, 0.0), c, (), (to.sigma**2 - (c * at.sigma) ** 2) ** 0.5)
    return PlanStep(row, (Draw("renoise", span(at, to)),), to, True, 0)


def first_order(at: HostPoint, to: HostPoint, pair: Pair, a: float, b: float, s: float = 0.0) -> PlanStep:
    """The one-step row ``x_u = a·x0 + b·ε + s·z`` with x0 and ε the estimates at ``at``, in the variable ``pair``."""
    p, q = pair
    d = q * at.alpha - p * at.sigma
    if d == 0.0:
        raise InputError(
            f"the variable {p:g}·x0 + {q:g}·eps does not exist at alpha = {at.alpha:g}, sigma = {at.sigma:g}"
        )
    row = Row(at, pair, (q * a - p * b) / d, ((at.alpha * b - at.sigma * a) / d,), s)
    return PlanStep(row, (Draw("step", span(at, to)),) if s else (), to, True)
