"""Calibrated grids: the times of a few-step run, fitted to one model.

For N evaluations a run from x_T ends at ``x̂(u; x_T)``, where u are the inner nodes of the grid, and the probability flow at ``x*(x_T)``.
With a few reference trajectories we minimise ``mean log(‖x̂ − x*‖ + δ)`` over u: the logarithm, because a few trajectories near a decision
boundary carry nearly all of the mean square. Nodes stay ordered by writing the increments of u as a softmax (as in LD3, Tong et al. 2025),
and each iteration is one damped Gauss-Newton step. A node enters only what comes after it, so the N − 1 columns of the Jacobian, taken by
differences, cost N(N − 1)/2 evaluations a trajectory. As much noise again is kept for validation, and the default is returned unless
the fit wins there. It starts from the default's nodes and keeps its solver.
"""

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser, Estimate
from reverie.core.errors import InputError
from reverie.core.noise import Tape, sample_seeds
from reverie.core.progress import Progress
from reverie.core.schedules import HostPoint, Schedule
from reverie.solve.auto import default
from reverie.solve.grids import fitted, logistic
from reverie.solve.multistep import DPMpp, Multistep
from reverie.solve.plan import plain

_FLOOR = 1e-4


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
    """

    nodes: tuple[float, ...]
    start: float | None
    end: float | None
    solver: Multistep | DPMpp
    guidance: float
    ratio: float
    evaluations: int

    @property
    def nfe(self) -> int:
        return len(self.nodes) + 1

    def __call__(self, schedule: Schedule, steps: int) -> tuple[HostPoint, ...]:
        if steps != self.nfe:
            raise InputError(f"this grid was calibrated for {self.nfe} steps: got steps={steps}")
        first, *_, last = logistic(start=self.start, end=self.end)(schedule, 1)
        return first, *(schedule.at(0.5 * node) for node in self.nodes), last

    def save(self, path: str | Path) -> None:
        """Write as JSON, atomically."""
        record = asdict(self)
        record["solver"] = {"name": type(self.solver).__name__, **record["solver"]}
        path = Path(path)
        part = path.with_name(path.name + ".part")
        with part.open("w") as file:
            file.write(json.dumps(record, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)

    @classmethod
    def load(cls, path: str | Path) -> "Calibrated":
        """Read what :meth:`save` wrote.

        Raises:
            InputError: when the file holds something else.
        """
        try:
            record: dict[str, Any] = json.loads(Path(path).read_text())
            solver = {c.__name__: c for c in (Multistep, DPMpp)}[record["solver"].pop("name")](**record["solver"])
            return cls(**{**record, "nodes": tuple(record["nodes"]), "solver": solver})
        except (json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
            raise InputError(f"{path} is not a calibrated grid: {error}") from None


def calibrate(
    denoise: Denoiser,
    nfe: int = 10,
    *,
    cond: Cond | None = None,
    budget: int = 10_000,
    trajectories: int = 20,
    start: float | None = None,
    end: float | None = None,
    seed: int = 0,
    progress: str | None = "calibrate",
) -> Calibrated:
    """Fit the grid of an ``nfe``-evaluation run to a model.

    Args:
        denoise: the model, guided or not; the fit is for its guidance scale.
        nfe: evaluations of the run, 2 to 30.
        cond: one condition, or ``2·trajectories`` of them: those that the model will be sampled with.
        budget: network evaluations of a single sample that may be spent.
        trajectories: reference trajectories for the fit, and as many for validation.
        start, end: in logsnr; the path's own pure noise and clean data by default.
        seed: of the noise.
        progress: label of a progress bar over the evaluations.

    Returns:
        The best grid on the validation noise, or the default one when none is better.

    Raises:
        InputError: for an ``nfe`` out of range, or a budget that does not suffice for one iteration.
    """
    if not 2 <= nfe <= 30:
        raise InputError(f"calibration is for few-step runs of 2 to 30 evaluations: got nfe={nfe}")
    solver, grid = default(nfe, denoise.guidance)
    grid = replace(grid, start=start, end=end)
    fine_steps = max(48, 3 * nfe)
    cost = 2 * trajectories * (fine_steps + nfe) + trajectories * (nfe * (nfe - 1) // 2 + 3 * nfe)
    if budget < cost:
        raise InputError(
            f"one iteration at nfe={nfe} with {trajectories} trajectories takes {cost} evaluations: got budget={budget}"
        )
    start_point = grid(denoise.schedule, nfe)[0]
    x = Tape(sample_seeds(seed, 2 * trajectories)).draw("init", 0, denoise.shape).to(denoise.device) * start_point.sigma
    cond = None if cond is None else cond.expand(2 * trajectories).to(denoise.device)
    with torch.no_grad(), Progress(progress or "", total=budget, unit="evaluations") as bar:
        fine, fine_grid = default(fine_steps, denoise.guidance)
        points = replace(fine_grid, start=start, end=end)(denoise.schedule, fine_steps)
        fit, held = (
            _Runs(
                denoise,
                solver,
                x[part],
                None if cond is None else cond.index(part),
                bar.advance if progress else _ignore,
            )
            for part in (slice(0, trajectories), slice(trajectories, None))
        )
        for runs in (fit, held):
            runs.target = runs.with_solver(fine, points)
        return _descend(fit, held, grid, nfe, budget)


def _ignore(n: int) -> None: ...


class _Runs:
    """Runs of one batch of noise to ``target``; counts evaluations."""

    def __init__(
        self, denoise: Denoiser, solver: Multistep | DPMpp, x: Tensor, cond: Cond | None, advance: Callable[[int], None]
    ) -> None:
        self.denoise, self.solver, self.x, self.cond, self.advance = denoise, solver, x, cond, advance
        self.target = x
        self.evaluations = 0

    def with_solver(self, solver: Multistep | DPMpp, points: Sequence[HostPoint]) -> Tensor:
        own, self.solver = self.solver, solver
        x = self.run(points)[0]
        self.solver = own
        return x

    def run(self, points: Sequence[HostPoint], begin: int = 0, base: "Trace | None" = None) -> "tuple[Tensor, Trace]":
        """The end of the run and its trace; ``base`` gives everything before step ``begin``, and the estimate that it starts with."""
        plan = self.solver.plan(self.denoise.schedule, plain(points))
        state = self.solver.init(self.x, plan) if base is None else base[begin][0]
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
            state = self.solver.step(evaluate, before, step.row, ())
            trace.append((before, seen[0]))
        return self.solver.result(state), trace

    def error(self, end: Tensor) -> Tensor:
        return (end - self.target).flatten(1).double() / math.sqrt(self.target[0].numel())


Trace = list[tuple[Any, Estimate]]
"""For each step the state before it and the estimate that it made there."""


def _loss(error: Tensor) -> float:
    return float(torch.log(error.norm(dim=1) + _FLOOR).mean())


def _descend(fit: _Runs, held: _Runs, grid: logistic | fitted, nfe: int, budget: int) -> Calibrated:
    schedule, coordinate = fit.denoise.schedule, logistic()
    first, *inner, last = grid(schedule, nfe)
    low, high = (float(coordinate.u(p.lam)) for p in (first, last))
    if grid.end is None:
        high = float(coordinate.u(schedule.lam(0.0)))

    def nodes(u: Tensor) -> list[HostPoint]:
        return [first, *(schedule.at(coordinate.lam(float(v))) for v in u), last]

    u = torch.tensor([coordinate.u(p.lam) for p in inner], dtype=torch.float64)
    theta = torch.log(torch.diff(torch.cat([torch.tensor([low]), u, torch.tensor([high])]).double()))
    damping = 0.1
    end, trace = fit.run(nodes(u))
    loss = _loss(fit.error(end))
    before = best = _loss(held.error(held.run(nodes(u))[0]))
    chosen = u
    cost = len(fit.x) * (nfe * (nfe - 1) // 2 + 2 * nfe) + len(held.x) * nfe
    while fit.evaluations + held.evaluations + cost <= budget:
        error = fit.error(end)
        jacobian = torch.empty(*error.shape, nfe - 1, dtype=torch.float64)
        for k in range(nfe - 1):
            shifted = u.clone()
            shifted[k] += 0.02 * float(min(u[k] - (u[k - 1] if k else low), (u[k + 1] if k < nfe - 2 else high) - u[k]))
            moved = fit.run(nodes(shifted), k, trace)[0]
            jacobian[..., k] = (fit.error(moved) - error) / float(shifted[k] - u[k])
        share = torch.softmax(theta, 0)
        below = torch.cumsum(share, 0)[:-1, None]
        jacobian = jacobian @ ((high - low) * share * (torch.ones(nfe - 1, nfe).tril() - below))
        norm = error.norm(dim=1)
        weight = (1.0 / (norm * (norm + _FLOOR)))[:, None]
        gradient = torch.einsum("bd,bdk->k", weight * error, jacobian)
        curvature = torch.einsum("bdj,bdk->jk", weight[..., None] * jacobian, jacobian)
        scale = torch.diag(curvature.diagonal() + 1e-9 * curvature.trace())
        trials = []
        for factor in (0.3, 3.0):
            step = -torch.linalg.solve(curvature + factor * damping * scale, gradient)
            candidate = theta + step * min(1.0, 1.0 / float(step.abs().max()))
            v = low + (high - low) * torch.cumsum(torch.softmax(candidate, 0), 0)[:-1]
            out, path = fit.run(nodes(v))
            trials.append((_loss(fit.error(out)), factor * damping, candidate, v, out, path))
        trial = min(trials, key=lambda t: t[0])
        damping = trial[1] if trial[0] < loss else 10.0 * damping
        if trial[0] < loss:
            loss, _, theta, u, end, trace = trial
            value = _loss(held.error(held.run(nodes(u))[0]))
            if value < best:
                best, chosen = value, u
    return Calibrated(
        tuple(2.0 * coordinate.lam(float(v)) for v in chosen),
        grid.start,
        grid.end,
        fit.solver,
        fit.denoise.guidance,
        math.exp(best - before),
        fit.evaluations + held.evaluations,
    )
