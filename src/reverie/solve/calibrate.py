"""Calibrated plans: the times and corrector weights of a few-step run, fitted to one model.

For N evaluations a run from x_T ends at ``x̂(u, c; x_T)``, where u are the inner nodes of the grid and c the weights of the corrector at
them, and the probability flow at ``x*(x_T)``. With a few reference trajectories we minimise ``mean log(‖x̂ − x*‖ + δ)`` over u and c: the
logarithm, because a few trajectories near a decision boundary carry nearly all of the mean square. Nodes stay ordered by writing the
increments of u as a softmax (as in LD3, Tong et al. 2025). Every weight of the corrector gives a consistent solver, so that little can be
overfitted, unlike free multistep weights. A node or weight enters only what comes after it, so the Jacobian, taken by differences, costs
about N² evaluations a trajectory; the moves after it are damped Gauss-Newton steps with Broyden's correction of the Jacobian (1965), at N
a trajectory. It begins at the best of the stock plans (:func:`reverie.solve.auto.stock`) and of what the model is sampled with by default.
Three eighths of the noise are kept for validation, which chooses the beginning and, at the end, among it and what was fitted.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reverie.core import files
from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser
from reverie.core.errors import InputError
from reverie.core.estimate import Estimate
from reverie.core.noise import Tape, sample_seeds
from reverie.core.progress import Progress
from reverie.core.schedules import HostPoint, Schedule
from reverie.solve.auto import FAR, stock, suited
from reverie.solve.grids import logistic
from reverie.solve.multistep import DPMpp, Multistep
from reverie.solve.plan import plain
from reverie.solve.probe import probed

TRAJECTORIES = 32
"""Five in eight to fit, the others to validate."""
_FINE, _FINE_FAR = 36, 96
"""Steps of a reference; the second of a network that is off at pure noise, of which 36 end a third as far from the flow as 10."""
_FLOOR = 1e-4
_MOVES = 3  # for each Jacobian
_RIDGE = 3.0  # pulls parameters to where they began, against chance in few trajectories


@dataclass(frozen=True)
class Calibrated:
    """A grid and the solver it was fitted for; callable as a grid, with the number of steps it was made for.

    Attributes:
        nodes: the inner nodes, in logsnr; increasing.
        start, end: in logsnr; None for the path's own pure noise and clean data.
        solver: the multistep solver.
        guidance: scale that it was fitted at.
        ratio: error on validation noise against the default's, the geometric mean over samples; 1 when the default was kept.
        evaluations: of the network, that the fit took.
        tried: the plans that it might have begun with, and the ratio of each; the first is the default's.
        usual: the default's error on validation noise, the geometric mean over samples; None in files of before it was kept.
    """

    nodes: tuple[float, ...]
    start: float | None
    end: float | None
    solver: Multistep | DPMpp
    guidance: float
    ratio: float
    evaluations: int
    tried: tuple[tuple[str, float], ...] = ()
    usual: float | None = None

    @property
    def nfe(self) -> int:
        return len(self.nodes) + 1

    def __call__(self, schedule: Schedule, steps: int) -> tuple[HostPoint, ...]:
        if steps != self.nfe:
            raise InputError(f"this grid was calibrated for {self.nfe} steps: got steps={steps}")
        first, *_, last = logistic(start=self.start, end=self.end)(schedule, 1)
        return first, *(schedule.at(0.5 * node) for node in self.nodes), last

    def story(self) -> str:
        """What was tried, a line each: the plans that it might have begun with and the error of each, the best, what the fit made of it."""
        unit, usual = ("", self.usual) if self.usual is not None else (" of the default's", 1.0)
        best = min((ratio for _, ratio in self.tried), default=1.0)
        lines = [f"tried, by the typical error on noise that is not fitted{unit}:"]
        for i, (name, ratio) in enumerate(self.tried):
            notes = ["the default"] * (i == 0) + ["the best"] * (ratio == best)
            lines.append(f"  {usual * ratio:8.2g}  {name}" + (f" ({', '.join(notes)})" if notes else ""))
        if self.ratio < best:
            lines.append(f"  {usual * self.ratio:8.2g}  the best, its times and corrector fitted")
        else:
            lines.append("fitting its times and corrector brought the best no nearer: it is kept as it is")
        return "\n".join(lines)

    def save(self, path: str | Path) -> None:
        """Write as JSON, atomically."""
        record = asdict(self)
        record["solver"] = {"name": type(self.solver).__name__, **record["solver"]}
        files.write(Path(path), json.dumps(record, indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "Calibrated":
        """Read what :meth:`save` wrote.

        Raises:
            InputError: when the file holds something else.
        """
        try:
            record: dict[str, Any] = json.loads(Path(path).read_text())
            settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in record["solver"].items()}
            solver = {c.__name__: c for c in (Multistep, DPMpp)}[settings.pop("name")](**settings)
            tried = tuple((name, ratio) for name, ratio in record.get("tried", ()))
            return cls(**{**record, "nodes": tuple(record["nodes"]), "solver": solver, "tried": tried})
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            raise InputError(f"{path} is not a calibrated grid: {error}") from None


def calibrate(
    denoise: Denoiser,
    nfe: int = 10,
    *,
    cond: Cond | None = None,
    budget: int = 10_000,
    trajectories: int = TRAJECTORIES,
    start: float | None = None,
    end: float | None = None,
    seed: int = 0,
    progress: str | None = "calibrate",
) -> Calibrated:
    """Fit the grid of an ``nfe``-evaluation run, and the corrector of its solver, to a model.

    Args:
        denoise: the model, guided or not; the fit is for its guidance scale.
        nfe: evaluations of the run, 2 to 30.
        cond: one condition, or ``trajectories`` of them: those that the model will be sampled with.
        budget: network evaluations of a single sample that may be spent.
        trajectories: at most so many reference trajectories, as the budget reaches for one round; five in eight for the fit, the others
            for validation.
        start, end: in logsnr; the path's own pure noise and clean data by default.
        seed: of the noise.
        progress: label of a progress bar over the evaluations.

    Returns:
        The best plan on the validation noise, stock plans and the default among them.

    Raises:
        InputError: for an ``nfe`` out of range, or a budget that does not suffice for one round of 16 trajectories.
    """
    if not 2 <= nfe <= 30:
        raise InputError(f"calibration is for few-step runs of 2 to 30 evaluations: got nfe={nfe}")
    dimensions, found = math.prod(denoise.shape), probed(denoise)
    usual = suited(found, nfe, denoise.guidance, dimensions)
    plans = list(dict.fromkeys([usual, *stock(nfe, denoise.guidance, dimensions)]))
    fine_steps = max(_FINE if found is None or found.far <= FAR else _FINE_FAR, 3 * nfe)
    eight = 8 * (fine_steps + nfe) + max(_cost(solver, nfe, 5) for solver, _ in plans) + 3 * len(plans) * nfe
    if trajectories < 16 or budget < 2 * eight:
        raise InputError(
            f"one round at nfe={nfe} with the least, 16 trajectories, takes {2 * eight} evaluations: got "
            f"trajectories={trajectories} and budget={budget}"
        )
    cond = None if cond is None else cond.expand(trajectories).to(denoise.device)
    trajectories = 8 * min(trajectories // 8, budget // eight)
    count = 5 * trajectories // 8
    first, *_, last = logistic(start=start, end=end)(denoise.schedule, 1)
    x = Tape(sample_seeds(seed, trajectories)).draw("init", 0, denoise.shape).to(denoise.device)
    x = x * first.sigma
    with torch.no_grad(), Progress(progress or "", total=budget, unit="evaluations") as bar:
        fine, fine_grid = suited(found, fine_steps, denoise.guidance, dimensions)
        points = replace(fine_grid, start=start, end=end)(denoise.schedule, fine_steps)
        fit, held = (
            _Runs(denoise, x[part], None if cond is None else cond.index(part), bar.advance if progress else _ignore)
            for part in (slice(0, count), slice(count, trajectories))
        )
        for runs in (fit, held):
            runs.target = runs.run(fine, [first, *points[1:-1], last])[0]
        nodes = [[p.lam for p in replace(g, start=start, end=end)(denoise.schedule, nfe)[1:-1]] for _, g in plans]
        losses = [
            _loss(held.error(held.run(solver, [first, *map(denoise.schedule.at, inner), last])[0]))
            for (solver, _), inner in zip(plans, nodes, strict=True)
        ]
        tried = [
            (f"{_named(solver)} on {_named(grid)}", math.exp(loss - losses[0]))
            for (solver, grid), loss in zip(plans, losses, strict=True)
        ]
        chosen = min(range(len(plans)), key=losses.__getitem__)
        solver = plans[chosen][0]
        best = _Fit(fit, held, solver, [first, *map(denoise.schedule.at, nodes[chosen]), last], nfe, losses[chosen])
        while fit.evaluations + held.evaluations + _cost(solver, nfe, count) <= budget:
            best.round()
    fitted, points = best.plan(best.u(best.chosen), best.chosen[nfe:])
    return Calibrated(
        tuple(2.0 * p.lam for p in points[1:-1]),
        start,
        end,
        fitted if best.validation < losses[chosen] else solver,
        denoise.guidance,
        math.exp(best.validation - losses[0]),
        fit.evaluations + held.evaluations,
        tuple(tried),
        math.exp(losses[0]),
    )


def _named(thing: Any) -> str:
    """A solver or grid with what it does not have by default."""
    own = ((f.name, getattr(thing, f.name)) for f in fields(thing) if getattr(thing, f.name) != f.default)
    said = (f"{name}={'fitted' if isinstance(value, tuple) else value}" for name, value in own)
    return f"{type(thing).__name__}({', '.join(said)})"


def _ignore(n: int) -> None: ...


class _Runs:
    """Runs of one batch of noise to ``target``; counts evaluations."""

    def __init__(self, denoise: Denoiser, x: Tensor, cond: Cond | None, advance: Callable[[int], None]) -> None:
        self.denoise, self.x, self.cond, self.advance = denoise, x, cond, advance
        self.target = x
        self.evaluations = 0

    def run(
        self, solver: Multistep | DPMpp, points: Sequence[HostPoint], begin: int = 0, base: "Trace | None" = None
    ) -> "tuple[Tensor, Trace]":
        """The end of the run and its trace; ``base`` gives everything before step ``begin``, and the estimate that it starts with."""
        plan = solver.plan(self.denoise.schedule, plain(points))
        state = solver.init(self.x, plan) if base is None else base[begin][0]
        trace: Trace = []
        for i, step in enumerate(plan.steps[begin:]):
            known = base[begin][1] if base is not None and i == 0 else None
            seen: list[Estimate] = []

            def evaluate(
                x: Tensor, point: Any, known: Estimate | None = known, seen: list[Estimate] = seen
            ) -> Estimate:
                if known is None:
                    self.evaluations += len(x)
                    self.advance(len(x))
                seen.append(self.denoise(x, point, self.cond) if known is None else known)
                return seen[0]

            before = state
            state = solver.step(evaluate, before, step.row, ())
            trace.append((before, seen[0]))
        return solver.result(state), trace

    def error(self, end: Tensor) -> Tensor:
        return (end - self.target).flatten(1).cpu().double() / math.sqrt(self.target[0].numel())


Trace = list[tuple[Any, Estimate]]
"""For each step the state before it and the estimate that it made there."""


def _loss(error: Tensor) -> float:
    return float(torch.log(error.norm(dim=1) + _FLOOR).mean())


def _cost(solver: Multistep | DPMpp, nfe: int, trajectories: int) -> int:
    """Evaluations of a round: a Jacobian in nodes and corrector weights, the moves, a validation."""
    columns = nfe * (nfe - 1) // 2
    if isinstance(solver, Multistep):
        columns += (nfe - 1) * (nfe - 2) // 2
    return trajectories * (columns + (_MOVES + 1) * nfe)


class _Fit:
    """One descent: nodes and corrector weights from those of a solver on a grid."""

    def __init__(
        self,
        runs: _Runs,
        held: _Runs,
        solver: Multistep | DPMpp,
        points: Sequence[HostPoint],
        nfe: int,
        validation: float,
    ) -> None:
        self.runs, self.held, self.solver, self.nfe, self.coordinate = runs, held, solver, nfe, logistic()
        self.first, *inner, self.last = points
        self.low = self.coordinate.u(self.first.lam)
        self.high = self.coordinate.u(min(self.last.lam, runs.denoise.schedule.lam(0.0)))
        u = torch.tensor([self.low, *(self.coordinate.u(p.lam) for p in inner), self.high], dtype=torch.float64)
        corrector = solver.corrector_weights(nfe - 1) if isinstance(solver, Multistep) else ()
        self.at = torch.cat([torch.log(torch.diff(u)), torch.tensor(corrector, dtype=torch.float64)])
        self.begin = self.at
        self.end, self.trace = self.run(self.at)
        self.loss, self.damping = _loss(runs.error(self.end)), 0.1
        self.chosen, self.validation = self.at, validation

    def u(self, at: Tensor) -> Tensor:
        return self.low + (self.high - self.low) * torch.cumsum(torch.softmax(at[: self.nfe], 0), 0)[:-1]

    def plan(self, u: Tensor, corrector: Tensor) -> tuple[Multistep | DPMpp, list[HostPoint]]:
        solver = self.solver
        if isinstance(solver, Multistep):
            corrector = corrector.clamp(
                1e-9, 2.0
            )  # never 0: every run keeps as much history, and can go on from another's
            solver = replace(solver, corrector=tuple(corrector.tolist()))
        lams = (self.coordinate.lam(float(v)) for v in u)
        return solver, [self.first, *map(self.runs.denoise.schedule.at, lams), self.last]

    def run(self, at: Tensor, runs: _Runs | None = None) -> "tuple[Tensor, Trace]":
        return (runs or self.runs).run(*self.plan(self.u(at), at[self.nfe :]))

    def jacobian(self) -> Tensor:
        """Of the end in the parameters, (B, d, parameters)."""
        n, u, corrector = self.nfe, self.u(self.at), self.at[self.nfe :]
        padded = [self.low, *u.tolist(), self.high]
        shifts = [0.02 * min(padded[k + 1] - padded[k], padded[k + 2] - padded[k + 1]) for k in range(n - 1)]
        error, columns = self.runs.error(self.end), []
        for k in range(n - 1):
            moved = u.clone()
            moved[k] += shifts[k]
            end = self.runs.run(*self.plan(moved, corrector), k, self.trace)[0]
            columns.append((self.runs.error(end) - error) / shifts[k])
        increments = torch.softmax(self.at[:n], 0)
        below = torch.cumsum(increments, 0)[:-1, None]
        inner = torch.stack(columns, -1) @ ((self.high - self.low) * increments * (torch.ones(n - 1, n).tril() - below))
        columns = []
        for k in range(len(corrector)):
            moved = corrector.clone()
            moved[k] += 0.02
            end = self.runs.run(*self.plan(u, moved), k + 1, self.trace)[0]
            columns.append((self.runs.error(end) - error) / 0.02)
        return torch.cat([inner, *(c[..., None] for c in columns)], -1)

    def round(self) -> None:
        """A Jacobian and some moves along it; then validation."""
        jacobian, before = self.jacobian(), self.loss
        for _ in range(_MOVES):
            error = self.runs.error(self.end)
            norm = error.norm(dim=1)
            weight = (1.0 / (norm * (norm + _FLOOR)))[:, None]
            pull = _RIDGE * (self.at - self.begin)
            gradient = torch.einsum("bd,bdk->k", weight * error, jacobian) + pull
            curvature = torch.einsum("bdj,bdk->jk", weight[..., None] * jacobian, jacobian)
            curvature += _RIDGE * torch.eye(len(pull))
            scale = curvature.diagonal() + 1e-9 * curvature.trace()
            step = -torch.linalg.solve(curvature + self.damping * torch.diag(scale), gradient)
            step *= min(1.0, 1.0 / float(step.abs().max()))
            at = self.at + step
            end, trace = self.run(at)
            change = self.runs.error(end) - error
            along = scale * step / (scale * step).dot(step)
            jacobian += (change - jacobian @ step)[..., None] * along
            loss = _loss(self.runs.error(end)) + 0.5 * _RIDGE * float((at - self.begin).square().sum()) / len(error)
            if loss < self.loss:
                self.at, self.end, self.trace, self.loss = at, end, trace, loss
                self.damping /= 3.0
            else:
                self.damping *= 4.0
        value = _loss(self.held.error(self.run(self.at, self.held)[0])) if self.loss < before else self.validation
        if value < self.validation:
            self.chosen, self.validation = self.at, value
