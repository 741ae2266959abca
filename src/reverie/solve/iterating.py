"""``iterate``: run a solver's plan on a denoiser, a step at a time."""

import dataclasses
from collections.abc import Iterator
from functools import lru_cache
from operator import index
from typing import Any

import torch
from torch import Tensor

from reverie.core.condition import Cond, as_cond
from reverie.core.denoiser import Denoiser
from reverie.core.errors import InputError
from reverie.core.estimate import Estimate
from reverie.core.flow_map import FlowMap
from reverie.core.noise import NoiseTape, Seeds, Tape, listed, sample_seeds
from reverie.core.schedules import HostPoint, Schedule
from reverie.core.tensors import check_range
from reverie.solve import grids
from reverie.solve.auto import choose
from reverie.solve.grids import Grid
from reverie.solve.plan import Plan, Solver, Walk, plain

Ends = tuple[float, float]
"""Where a run starts and where it ends, in logsnr."""


class Step:
    """One node of a running walk, as :func:`iterate` yields it.

    Attributes:
        index: 0 … the number of nodes − 1.
        at, to: the points that the move came from and went to; ``x`` is at ``to``.
        x: the state, (B, …) in the diffused space; assign to replace it (which drops the multistep history).
        estimate: the estimate at ``at`` that moved it (the first of a multi-stage step).
        cond: the condition of the next evaluations; assign to replace it.
        evaluations: network evaluations a sample so far; a tensor (B,) for an adaptive solver.
    """

    def __init__(
        self,
        index: int,
        at: HostPoint,
        to: HostPoint,
        x: Tensor,
        estimate: Estimate,
        cond: Cond | None,
        evaluations: int | Tensor,
    ):
        self.index, self.at, self.to, self.x, self.estimate = index, at, to, x, estimate
        self.cond, self.evaluations = cond, evaluations
        self._again = False

    def rerun(self) -> None:
        """Take this very step again from where it started, with the same noise and history and the present :attr:`cond`."""
        self._again = True


def iterate(
    denoise: Denoiser,
    n: int | None = None,
    cond: Cond | None = None,
    solver: Solver | str | None = None,
    steps: int = 30,
    grid: Grid | str | None = None,
    seed: Seeds = 0,
    x: Tensor | None = None,
    start: float | None = None,
    walk: Walk | None = None,
    tape: NoiseTape | None = None,
    ends: Ends | None = None,
) -> Iterator[Step]:
    """Run :func:`~reverie.solve.sampling.sample` step by step: yields a :class:`Step` at every node of the walk.

    The caller may assign ``step.x`` or ``step.cond``, or call ``step.rerun()``, before asking for the next one. Arguments as in
    :func:`~reverie.solve.sampling.sample`, but of a recipe it knows nothing: what is not given is as of a model without one. And

    Args:
        walk: moves to make in place of a grid.
        tape: where the noise comes from, in place of the plain tape of ``seed``.
    """
    grids.check_steps(steps)
    count = how_many(n, as_cond(cond), x, seed)
    cond = conditioned(denoise, cond, count)
    if sum(given is not None for given in (start, ends, walk)) > 1:
        raise InputError("start=, ends= and walk= each say where a run goes: give one of them")
    solver, grid = choose(denoise, solver, grid, steps, whole=start is None and walk is None and ends is None)
    if walk is None:
        walk = _walk(denoise.schedule, grid, steps, start, ends)
    plan = _plan(solver, denoise.schedule, walk)
    tape = Tape(sample_seeds(seed, count)) if tape is None else tape
    state = solver.init(_initial(denoise, plan, x, start, count, tape), plan)

    first: Estimate | None = None

    def evaluate(x: Tensor, point: HostPoint) -> Estimate:
        nonlocal first
        estimate = denoise(x, point, cond)
        first = estimate if first is None else first
        return estimate

    draws: dict[str, int] = {}
    at, index, evaluations, i = plan.start, 0, 0, 0
    while i < len(plan.steps):
        before, drawn, begin = state, dict(draws), i
        while True:
            step = plan.steps[i]
            noise = []
            for draw in step.draws:
                z = tape.draw(draw.stream, draws.get(draw.stream, 0), solver.result(state).shape[1:], draw.span)
                noise.append(z.to(solver.result(state)))
                draws[draw.stream] = draws.get(draw.stream, 0) + 1
            state = solver.step(evaluate, state, step.row, noise)
            evaluations = evaluations + getattr(state, "spent", step.evaluations)
            i += 1
            if step.node:
                break
        x_now = solver.result(state)
        node = Step(index, at, step.to, x_now, first, cond, evaluations)  # pyright: ignore[reportArgumentType]
        yield node
        first = None
        if node.cond is not cond:
            cond = conditioned(denoise, node.cond, count)
        if node._again:
            state, draws, i = before, drawn, begin
            continue
        at, index = step.to, index + 1
        if node.x is not x_now and index < len(walk):
            plan, i = _plan(solver, denoise.schedule, walk[index:]), 0
            state = solver.init(node.x, plan)


def how_many(n: int | None, cond: Cond | None, x: Tensor | None, seed: Seeds) -> int:
    given = [len(v) for v in (x, cond) if v is not None]
    if listed(seed):
        given.append(len(seed))  # pyright: ignore[reportArgumentType]
    if n is None and 0 in given:
        raise InputError("the batch is empty: x, cond or the list of seeds has length 0, so there is nothing to sample")
    return max(given, default=1) if n is None else at_least_one("n", n)


def at_least_one(name: str, value: Any) -> int:
    if not hasattr(value, "__index__") or (count := index(value)) < 1:
        raise InputError(f"{name} is at least 1, a whole number: got {value!r}")
    return count


def conditioned(denoise: Denoiser | FlowMap, cond: Cond | None, n: int) -> Cond | None:
    if cond is None:
        return None
    cond.check(denoise.conditions)
    return cond.expand(n).to(denoise.device)


def _walk(schedule: Schedule, grid: Grid, steps: int, start: float | None, ends: Ends | None) -> Walk:
    if ends is not None:
        if not ends[0] < ends[1]:
            raise InputError(f"ends are (logsnr_start, logsnr_end), noise is low and data high: got {ends}")
        grid = dataclasses.replace(grid, start=float(ends[0]), end=float(ends[1]))  # pyright: ignore[reportArgumentType]
    if start is not None:
        if not 0.0 < start <= 1.0:
            raise InputError(f"start is a time in (0, 1], 1 is pure noise: got {start}")
        grid = dataclasses.replace(grid, start=2.0 * float(schedule.point(start).lam))  # pyright: ignore[reportArgumentType]
    return plain(grid(schedule, steps))


def _plan(solver: Solver, schedule: Schedule, walk: Walk) -> Plan:
    """The plan, remembered where only numbers make it: a solver may hold a measurement or a network, which dies with its run."""
    return (_remembered if _numbers(solver) and _numbers(schedule) else _made)(solver, schedule, walk)


def _made(solver: Solver, schedule: Schedule, walk: Walk) -> Plan:
    return solver.plan(schedule, walk)


_PLAIN = {bool, int, float, str, type(None)}
_remembered = lru_cache(maxsize=256)(_made)


def _numbers(value: object) -> bool:
    """Whether ``value`` is a number, a word or None, a tuple of such, or a dataclass of those."""
    if dataclasses.is_dataclass(value):
        return all(_numbers(getattr(value, field.name)) for field in dataclasses.fields(value))
    return _PLAIN.issuperset(map(type, value if isinstance(value, tuple) else (value,)))


def _initial(denoise: Denoiser, plan: Plan, x: Tensor | None, start: float | None, n: int, tape: NoiseTape) -> Tensor:
    shape, device = tuple(denoise.shape), denoise.device
    dtype = torch.promote_types(denoise.dtype, torch.float32)
    if start is not None and x is None:
        raise InputError("start= noises a given image part of the way: give the image as x=")
    if x is not None and tuple(x.shape) != (n, *x.shape[1:]):
        raise InputError(f"x has {len(x)} rows for {n} samples")
    if x is not None and not x.is_floating_point():
        raise InputError(f"x holds {x.dtype}: give floats, pictures in [-1, 1], such as x / 127.5 - 1 of bytes")
    if x is not None:
        if start is not None:
            check_range(x, "x")
        x = x.to(device, torch.promote_types(x.dtype, dtype))
    if x is not None and start is None:
        if tuple(x.shape[1:]) != shape:
            raise InputError(f"x holds samples of shape {tuple(x.shape[1:])}, the model's are {shape}")
        return x
    noise = tape.draw("init", 0, shape).to(device, dtype)
    if x is None:
        return noise * float(plan.start.sigma)
    z = denoise.space.encode(x)
    if tuple(z.shape[1:]) != shape:
        raise InputError(f"x holds images that encode to {tuple(z.shape[1:])}, the model's samples are {shape}")
    return float(plan.start.alpha) * z + float(plan.start.sigma) * noise.to(z)
