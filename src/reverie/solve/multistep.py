"""Exponential multistep solvers: a polynomial through the last predictions, integrated exactly against the path.

One table serves them all (:func:`table`); DPM-Solver++, UniPC and DEIS are choices of the variable, the clock and a corrector.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise, zip_longest
from typing import Literal

from reverie.core.errors import InputError, unknown
from reverie.core.schedules import HostPoint, Schedule
from reverie.solve.plan import PlanStep, Row, TableSolver, first_order
from reverie.solve.variables import CLOCKS, EPS, STRAIGHT, VARIABLES, X0, Clock, Variable, clock, weights

Rule = Callable[[HostPoint, HostPoint, Sequence[HostPoint]], list[float]]
"""Weights of ``M_u ∫ y dμ`` from ``at`` to ``to`` for the predictions at ``nodes``."""


def table(
    points: Sequence[HostPoint],
    variable: Variable,
    clock: Clock,
    order: int,
    final_order: int,
    corrector: Sequence[float],
    rule: Rule,
    lower_order_final: bool = False,
) -> list[PlanStep]:
    """The rows that visit ``points``.

    The predictor integrates the polynomial through the last ``order`` predictions, as many as there are at the start and
    ``final_order`` in the last step; with ``lower_order_final`` no more than there are moves left. The corrector (UniC, Zhao et al.
    2023) replaces the move that led to a point by the one with the prediction made there as one more node; being linear in the history
    it folds into the next row, and the last move has none. A weight of it below 1, ``corrector[i]`` at point i + 1, leaves the rest of
    the move as predicted, which is measured to be better while steps are large.

    Where the variable or the clock is infinite at an end of a move, that move is of order 1, exact in ε − x0, and the history
    begins after it.
    """
    steps: list[PlanStep] = []
    past: list[HostPoint] = []  # nodes that a polynomial may use, newest first
    moved: tuple[HostPoint, list[float]] | None = None  # where the last move came from, and its weights
    for i, (at, to) in enumerate(pairwise(points)):
        regular = variable.scale(at) != 0.0 and math.isfinite(clock.of(at))
        past = [at, *past][: order + 1] if regular else []
        if not regular or variable.scale(to) == 0.0 or not math.isfinite(clock.of(to)):
            pair = variable.pair if regular else STRAIGHT.pair
            row = first_order(at, to, pair, to.alpha, to.sigma).row
            c, w = row.c, list(row.w)
        else:
            pair = variable.pair
            c = variable.scale(to) / variable.scale(at)
            left = len(points) - 1 - i
            most = left if lower_order_final else final_order if left == 1 else order
            w = rule(at, to, past[: min(order, most)])
        folded = list(w)
        if i and corrector[i - 1] and regular and moved is not None:
            origin, predicted = moved
            corrected = rule(origin, at, past[: len(predicted) + 1])
            mend = [corrector[i - 1] * c * (new - old) for new, old in zip(corrected, [0.0, *predicted], strict=True)]
            folded = [a + b for a, b in zip_longest(w, mend, fillvalue=0.0)]
        moved = (at, w) if regular else None
        steps.append(PlanStep(Row(at, pair, c, tuple(folded), 0.0), (), to, True))
    return steps


def two_node(
    variable: Variable,
    clock: Clock,
    form: Literal["bh1", "bh2"],
    at: HostPoint,
    to: HostPoint,
    nodes: Sequence[HostPoint],
) -> list[float]:
    """:func:`weights`, but with two nodes the form ``gain·y_t + ½·B·(y_o − y_t)/r``, r = (s_o − s_t)/(s_u − s_t), that midpoint rules take.

    ``bh2`` is B = gain, ``bh1`` its first order M_u·h·dμ/ds, which for x0 in λ is α_u·h (Zhao et al. 2023, section 3.4).
    """
    if len(nodes) != 2:
        return weights(variable, clock, at, to, nodes)
    (gain,) = weights(variable, clock, at, to, nodes[:1])
    other = nodes[0] if nodes[1] is at else nodes[1]
    h = clock.of(to) - clock.of(at)
    b = gain if form == "bh2" else to.alpha * h
    slope = 0.5 * b * h / (clock.of(other) - clock.of(at))
    return [slope, gain - slope] if nodes[1] is at else [gain - slope, slope]


def _check_order(name: str, order: int, most: int) -> None:
    if order not in range(1, most + 1):
        raise InputError(f"{name} has orders 1 to {most}: got {order}")


@dataclass(frozen=True)
class Multistep(TableSolver):
    """The family: a polynomial of degree ``order`` − 1 in ``clock`` through the last y in ``variable``.

    ``x_u = (M_u/M_t)·x + M_u·Σ_j y_{−j}·∫ ℓ_j(s) dμ``, ℓ_j the Lagrange polynomials. Where the clock is μ itself, as by default, these are
    the Adams-Bashforth methods for uneven steps, and the corrector is Adams-Moulton's: with k = Δμ/(2Δμ_{−1}), order 2 is
    ``x_u/M_u = x/M_t + Δμ·((1 + k)·y − k·y_{−1})``.

    Args:
        order: of the predictor, 1 to 8; the global order is that of the predictor, and one more with the whole corrector.
        variable: "straight" (ε − x0), "x0" or "eps".
        clock: "tau" (σ/(α+σ)), "logsnr", "rho" (σ/α) or "time". The default pair is finite at both ends of every path.
        corrector: the weight, 0 to 2, with which each point is corrected with the prediction made there, at no further evaluation; or
            one weight for each point between the ends.
        final_order: at most this order in the last move.
    """

    order: int = 3
    variable: Literal["straight", "x0", "eps"] = "straight"
    clock: Literal["tau", "logsnr", "rho", "time"] = "tau"
    corrector: float | tuple[float, ...] = 0.0
    final_order: int = 8

    def __post_init__(self) -> None:
        _check_order("Multistep", self.order, 8)
        _check_order("the last move of Multistep", self.final_order, 8)
        if not all(0.0 <= weight <= 2.0 for weight in self.corrector_weights(1)):
            raise InputError(f"the corrector of Multistep is a weight from 0 to 2: got {self.corrector}")
        if self.variable not in VARIABLES:
            raise unknown("variable", self.variable, VARIABLES)
        if self.clock not in (*CLOCKS, "time"):
            raise unknown("clock", self.clock, [*CLOCKS, "time"])

    def corrector_weights(self, points: int) -> tuple[float, ...]:
        """The weight of the corrector at each of so many points between the ends, or at as many as were given."""
        return self.corrector if isinstance(self.corrector, tuple) else (self.corrector,) * points

    def rows(self, schedule: Schedule, points: Sequence[HostPoint]) -> list[PlanStep]:
        v, s = VARIABLES[self.variable], clock(self.clock, schedule)
        corrector = self.corrector_weights(len(points) - 2)
        if len(corrector) != len(points) - 2:
            raise InputError(
                f"a corrector with {len(corrector)} weights is for {len(corrector) + 1} steps: got a grid of {len(points) - 1}"
            )
        return table(points, v, s, self.order, self.final_order, corrector, partial(weights, v, s))


@dataclass(frozen=True)
class DPMpp(TableSolver):
    """DPM-Solver++ multistep (Lu et al. 2022b): predictions of x0, polynomial in λ; one evaluation a step.

    Order 2 is the paper's 2M (algorithm 2, the midpoint form): with r = h_{−1}/h,
    ``x_u = (σ_u/σ_t)·x − α_u(e^(−h) − 1)·((1 + 1/(2r))·D − (1/(2r))·D_{−1})``.
    Orders 1 and 3 integrate the Lagrange polynomial exactly. The first steps use as much
    history as there is; the step to clean data is of order 1, and the last one of at most ``final_order``.
    """

    order: int = 2
    final_order: int = field(default=3, repr=False)

    def __post_init__(self) -> None:
        _check_order("DPMpp", self.order, 3)
        _check_order("the last move of DPMpp", self.final_order, 3)

    def rows(self, schedule: Schedule, points: Sequence[HostPoint]) -> list[PlanStep]:
        s = CLOCKS["logsnr"]
        return table(points, X0, s, self.order, self.final_order, [0.0] * len(points), partial(two_node, X0, s, "bh2"))


@dataclass(frozen=True)
class UniPC(TableSolver):
    """UniPC (Zhao et al. 2023): the predictor UniP of ``order`` 1 to 3 and the corrector UniC, on predictions of x0 in λ.

    With r = h_{−1}/h (the paper's r_1 is −r), B = 1 − e^(−h) ("bh2") or h ("bh1"), and D, D_{−1}, D_u the predictions at t, before it and
    at the predicted x_u, UniP-2 is ``x_u = (σ_u/σ_t)·x + α_u((1 − e^(−h))·D + B·(D − D_{−1})/(2r))``. The corrector moves again with D_u:
    UniC-1 is ``x_u = (σ_u/σ_t)·x + α_u((1 − e^(−h))·D + ½B·(D_u − D))``, UniC-2 integrates the parabola through all three.

    From three nodes on, both of the paper's B(h) give the exact integral of the polynomial; with two they differ in the ½ rule.
    The global order is one above that of the predictor.

    With ``lower_order_final`` the order is at most the number of moves that are left, as in the authors' code for few steps.
    """

    order: int = 3
    form: Literal["bh1", "bh2"] = "bh2"
    lower_order_final: bool = False

    def __post_init__(self) -> None:
        _check_order("UniPC", self.order, 3)
        if self.form not in ("bh1", "bh2"):
            raise unknown("form", self.form, ["bh1", "bh2"])

    def rows(self, schedule: Schedule, points: Sequence[HostPoint]) -> list[PlanStep]:
        s = CLOCKS["logsnr"]
        rule, corrector = partial(two_node, X0, s, self.form), [1.0] * len(points)
        return table(points, X0, s, self.order, self.order, corrector, rule, self.lower_order_final)


@dataclass(frozen=True)
class DEIS(TableSolver):
    """DEIS (Zhang & Chen 2023): exponential Adams-Bashforth on ε, ``x_u/α_u = x/α_t + Σ_j ε_{−j} ∫ ℓ_j dρ``.

    ρAB2 is ``x_u/α_u = x/α_t + Δρ·((1 + k)·ε − k·ε_{−1})`` with k = Δρ/(2Δρ_{−1}); log ρ AB2 is
    ``x_u = (α_u/α_t)·x − σ_u((e^h − 1)·ε + (e^h − 1 − h)·(ε − ε_{−1})/h_{−1})``. ``clock`` is the variable of
    the polynomial: "time" (tAB), "rho" (ρAB) or "logsnr" (log ρ AB). A start from pure noise, where ρ is
    infinite, is taken in ε − x0.
    """

    order: int = 3
    clock: Literal["time", "rho", "logsnr"] = "logsnr"

    def __post_init__(self) -> None:
        _check_order("DEIS", self.order, 4)
        if self.clock not in ("time", "rho", "logsnr"):
            raise unknown("clock", self.clock, ["time", "rho", "logsnr"])

    def rows(self, schedule: Schedule, points: Sequence[HostPoint]) -> list[PlanStep]:
        s = clock(self.clock, schedule)
        return table(points, EPS, s, self.order, self.order, [0.0] * len(points), partial(weights, EPS, s))
