"""Correctors: Solver -> Solver. After a move t→u one sees (x_t, estimate, x_u, t, u) and returns x_u."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from reverie.core.estimate import Estimate
from reverie.core.schedules import HostPoint, Point, Schedule
from reverie.solve.plan import Bound, Draw, Plan, PlanStep, Solver, Walk, span


class Watched(NamedTuple):
    """A row of the corrected solver, and whether it ends a move."""

    row: Any
    last: bool

    @property
    def point(self) -> Point | None:
        return self.row.point


class Correction(NamedTuple):
    """The row of a corrector: it acts on x at ``to``, where the move from ``at`` ended."""

    at: HostPoint
    to: HostPoint

    @property
    def point(self) -> HostPoint:
        return self.to


class Corrected(NamedTuple):
    """The corrected solver's own state, the first estimate of its last move, and whether that move has ended."""

    inner: Any
    estimate: Estimate | None
    ended: bool


class Corrector(ABC):
    """A solver whose moves towards the data are each followed by ``times`` corrections.

    A subclass gives :meth:`correct`, and says in ``stream`` where its noise comes from (None without), in ``evaluations`` what one
    correction costs and in :meth:`acts` where it has something to do. The corrected solver's state is a NamedTuple with a field x; its
    history is kept.
    """

    solver: Solver
    times: int = 1
    stream: str | None = None
    evaluations: int = 0

    @abstractmethod
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
        """x_u in place of ``x``, after the move from ``x_t`` at ``at`` to ``x`` at ``to`` that began with ``estimate``."""

    def acts(self, to: HostPoint) -> bool:
        """Whether a move that ended at ``to`` is corrected."""
        return True

    def plan(self, schedule: Schedule, walk: Walk) -> Plan:
        base = self.solver.plan(schedule, walk)
        steps, at, solving = [], base.start, False
        for step in base.steps:
            solving = solving or step.row.point is not None
            acts = step.node and solving and self.acts(step.to)
            steps.append(step._replace(row=Watched(step.row, step.node), node=step.node and not acts))
            for i in range(self.times if acts else 0):
                draws = () if self.stream is None else (Draw(self.stream, span(at, step.to)),)
                steps.append(PlanStep(Correction(at, step.to), draws, step.to, i == self.times - 1, self.evaluations))
            if step.node:
                at, solving = step.to, False
        return Plan(base.start, tuple(steps), base.history)

    def init(self, x: Tensor, plan: Plan) -> Corrected:
        return Corrected(self.solver.init(x, plan), None, True)

    def step(self, denoise: Bound, state: Corrected, row: Any, noise: Sequence[Tensor]) -> Corrected:
        if isinstance(row, Correction):
            first = state.estimate
            assert first is not None, "a correction follows a move that made an estimate"
            x = self.correct(denoise, first.x_t, first, self.result(state), row.at, row.to, noise)
            return _at(state, x)
        seen: list[Estimate] = []

        def watch(x: Tensor, point: Point) -> Estimate:
            seen.append(denoise(x, point))
            return seen[-1]

        inner = self.solver.step(watch, state.inner, row.row, noise)
        first = (seen[0] if seen else None) if state.ended else state.estimate
        return Corrected(inner, first, row.last)

    def result(self, state: Corrected) -> Tensor:
        return self.solver.result(state.inner)


def _at(state: Any, x: Tensor) -> Any:
    """The state of a solver, corrected any number of times, with another x."""
    return state._replace(inner=_at(state.inner, x)) if isinstance(state, Corrected) else state._replace(x=x)
