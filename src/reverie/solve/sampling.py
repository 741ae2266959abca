"""``sample`` and ``iterate``: run a solver's plan on a denoiser."""

import copy
import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from operator import index
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor

from reverie.core.condition import Cond, as_cond
from reverie.core.conditioner import spoken
from reverie.core.count import Count
from reverie.core.denoiser import Denoiser, Estimate, counted
from reverie.core.errors import InputError
from reverie.core.flow_map import FlowMap
from reverie.core.generator import Frame, Generator
from reverie.core.noise import NoiseTape, SampleSeed, Seeds, Tape, listed, sample_seeds
from reverie.core.progress import Progress
from reverie.core.schedules import HostPoint, Schedule
from reverie.core.tensors import check_range, finite
from reverie.solve import ending, grids
from reverie.solve.auto import STEPS, choose, recalled
from reverie.solve.corrector import Corrector
from reverie.solve.fast import LARGEST, fast, fitting
from reverie.solve.grids import Grid
from reverie.solve.maps import leap
from reverie.solve.plan import Plan, Solver, Walk, plain
from reverie.solve.probe import EVALUATIONS, remembered

Ends = tuple[float, float]
"""Where a run starts and where it ends, in logsnr."""


class Report(NamedTuple):
    """What a run cost: passes through networks a sample, forward (``evaluations``) and back (``backwards``), and besides all the passes of
    single samples that a probe of the model took (``probe``), see :mod:`reverie.solve.probe`."""

    evaluations: float
    backwards: float
    probe: int = 0


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
    """Run :func:`sample` step by step: yields a :class:`Step` at every node of the walk.

    The caller may assign ``step.x`` or ``step.cond``, or call ``step.rerun()``, before asking for the next one. Arguments as in
    :func:`sample`, but of a recipe it knows nothing: what is not given is as of a model without one. And

    Args:
        walk: moves to make in place of a grid.
        tape: where the noise comes from, in place of the plain tape of ``seed``.
    """
    grids.check_steps(steps)
    count = _count(n, as_cond(cond), x, seed)
    cond = _condition(denoise, cond, count)
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
            cond = _condition(denoise, node.cond, count)
        if node._again:
            state, draws, i = before, drawn, begin
            continue
        at, index = step.to, index + 1
        if node.x is not x_now and index < len(walk):
            plan, i = _plan(solver, denoise.schedule, walk[index:]), 0
            state = solver.init(node.x, plan)


@overload
def sample(
    denoise: Denoiser | Generator | FlowMap,
    n: int | None = None,
    cond: Cond | None = None,
    solver: Solver | str | None = None,
    steps: int | None = None,
    grid: Grid | str | None = None,
    seed: Seeds = 0,
    x: Tensor | None = None,
    start: float | None = None,
    batch_size: int | None = None,
    progress: str | None = None,
    on_step: Callable[[Frame], None] | None = None,
    walk: Walk | None = None,
    tape: Callable[[list[SampleSeed]], NoiseTape] = Tape,
    *,
    ends: Ends | None = None,
    scale: float | None = None,
    text: str | Sequence[str] | None = None,
    negative: str | Sequence[str] | None = None,
    report: Literal[False] = False,
) -> Tensor: ...
@overload
def sample(
    denoise: Denoiser | Generator | FlowMap,
    n: int | None = None,
    cond: Cond | None = None,
    solver: Solver | str | None = None,
    steps: int | None = None,
    grid: Grid | str | None = None,
    seed: Seeds = 0,
    x: Tensor | None = None,
    start: float | None = None,
    batch_size: int | None = None,
    progress: str | None = None,
    on_step: Callable[[Frame], None] | None = None,
    walk: Walk | None = None,
    tape: Callable[[list[SampleSeed]], NoiseTape] = Tape,
    *,
    ends: Ends | None = None,
    scale: float | None = None,
    text: str | Sequence[str] | None = None,
    negative: str | Sequence[str] | None = None,
    report: Literal[True],
) -> tuple[Tensor, Report]: ...
def sample(
    denoise: Denoiser | Generator | FlowMap,
    n: int | None = None,
    cond: Cond | None = None,
    solver: Solver | str | None = None,
    steps: int | None = None,
    grid: Grid | str | None = None,
    seed: Seeds = 0,
    x: Tensor | None = None,
    start: float | None = None,
    batch_size: int | None = None,
    progress: str | None = None,
    on_step: Callable[[Frame], None] | None = None,
    walk: Walk | None = None,
    tape: Callable[[list[SampleSeed]], NoiseTape] = Tape,
    *,
    ends: Ends | None = None,
    scale: float | None = None,
    text: str | Sequence[str] | None = None,
    negative: str | Sequence[str] | None = None,
    report: bool = False,
) -> Tensor | tuple[Tensor, Report]:
    """Draw samples.

    Sample i of seed s starts from bitwise the same noise and ends as the same image (to float rounding) whatever ``n``, ``batch_size``
    and device. Nothing here turns gradients off: the result is differentiable in whatever requires a gradient.

    Args:
        denoise: the model, guided or not; a :class:`~reverie.core.generator.Generator` draws in its own way, and takes neither solver nor
            what follows from one; a :class:`~reverie.core.flow_map.FlowMap` takes ``steps`` leaps over the grid.
        n: how many; by default one for each condition, seed or row of ``x``, else 1.
        cond: one condition for all, or one a sample.
        solver: a solver, or the name of one, in :data:`reverie.solve.auto.NAMED` or :data:`~reverie.solve.auto.ELSEWHERE`, which may end
            in that of a grid (``dpmpp_2m_karras``); by default that of the recipe of a model from a run, else "auto": the model's
            calibration for this many steps, or the measured best for the number of steps, the guidance scale and what a probe of a network
            says, which takes 20 evaluations of single samples once a model; "default" goes without both.
        steps: intervals of the grid, at least 1; by default those of the recipe, else 30.
        grid: a grid, or the name of one, in :data:`reverie.core.names.GridName`; by default that of the recipe, else the one that suits
            the solver, see :func:`reverie.solve.auto.choose`.
        seed: one seed for the run, any whole number, or a list with one a sample.
        x: start from this: noise of standard deviation σ at the grid's start, (n, …) floating, in the diffused space. With ``start`` it is
            clean data instead, (n, C, H, W) in [−1, 1], noised to that time: image to image. The state is of the wider of its dtype and the
            model's, and at least float32.
        start: time in (0, 1] to start from, with ``x``: 1 forgets the image, 0 keeps it.
        batch_size: evaluate at most so many at a time; by default what fits into memory (see :mod:`reverie.solve.fast`), and all where a
            guide or corrector holds something of each sample.
        progress: label of a progress bar over the steps, "" for none; by default there is one in a terminal.
        on_step: told of each step of each batch.
        walk: moves to make in place of a grid: :mod:`reverie.solve.walks`.
        tape: makes the noise tape of a batch from its seeds, for example a :class:`~reverie.core.brownian.BrownianTape`.
        ends: (logsnr_start, logsnr_end) between which the grid runs, and of ``x`` and of what is returned; pure noise and clean data
            without.
        scale: of guidance, for a model from a run as :func:`reverie.load` gives it, told a condition: by default that of its recipe (with
            its ``guide_below``); 1 is the model as it is. A guide around the model takes its place.
        text: what to draw, in words, for a model that reads texts: one for all, or one a sample; in place of ``cond``.
        negative: with a text, what guidance leads away from in place of nothing; one, or one a text.
        report: also return what it cost, counted at the networks: guidance, stages and steps taken twice included.

    Returns:
        (n, C, H, W) data, decoded by the denoiser's space; images are in [−1, 1] up to the model's error. With ``report`` also a
        :class:`Report`.

    Raises:
        InputError: for steps < 1, an unknown or out-of-range condition, a text for a model that reads none, lengths that do not fit, an
            ``x`` that is not finite, or a scale of what is guided otherwise.
        RunError: when the samples are not finite; it names the step at which that began.
    """
    as_cond(cond)
    if isinstance(denoise, type | str | Path):
        raise InputError(
            f"rv.sample draws from a model, such as rv.load(folder) gives or a call of its class makes: got {denoise!r}"
        )
    cond = spoken(denoise, cond, text, negative)
    if progress is None:
        progress = "sampling" if sys.stderr.isatty() else ""
    if isinstance(denoise, Generator):
        bound = {
            "solver": solver,
            "grid": grid,
            "x": x,
            "start": start,
            "walk": walk,
            "ends": ends,
            "scale": scale,
            "report": report or None,
        }
        if given := [name for name, value in bound.items() if value is not None]:
            raise InputError(f"a {type(denoise).__name__} draws in its own way: leave {', '.join(given)} out")
        with Progress(progress, total=_count(n, cond, None, seed), unit="steps") as bar:
            telling = _telling(bar, on_step) if progress else on_step
            return ending.drawn(denoise.sample(n, cond, seed=seed, batch_size=batch_size, on_step=telling))
    if isinstance(denoise, FlowMap):
        bound = {
            "solver": solver,
            "start": start,
            "walk": walk,
            "ends": ends,
            "scale": scale,
            "report": report or None,
        }
        if given := [name for name, value in bound.items() if value is not None]:
            raise InputError(f"a flow map leaps over the grid: leave {', '.join(given)} out")
        count = next(n for n in (steps, denoise.steps, *denoise.trained, STEPS) if n is not None)
        return leaps(denoise, n, cond, count, grid, seed=seed, x=x, batch_size=batch_size, on_step=on_step)
    denoise, solver, steps, grid = recalled(denoise, cond, solver, steps, grid, scale)
    grids.check_steps(steps)
    count = _count(n, cond, x, seed)
    cond = _condition(denoise, cond, count)
    seeds = sample_seeds(seed, count)
    whole = isinstance(solver, Corrector)  # which may hold something of each sample
    size = batch_size if batch_size is not None else count if whole else fitting(denoise, x, cond, count)
    parts, outs, cost, known = list(batched(count, size)), [], Count(), remembered(denoise)
    if report:
        denoise = counted(denoise, cost)
    denoise = fast(denoise, min(size, count), x, cond, len(parts) * steps)
    total = count * (steps if walk is None else len(walk))
    with Progress(progress, total=total, unit="steps") as bar:

        def run(part: slice) -> Iterator[Step]:
            some = None if cond is None else cond.index(part)
            begin = None if x is None else x[part]
            n, own = part.stop - part.start, seeds[part]
            return iterate(denoise, n, some, solver, steps, grid, own, begin, start, walk, tape(own), ends)

        for part in parts:
            last = None
            for last in run(part):
                if progress:
                    bar.advance(part.stop - part.start)
                if on_step is not None:
                    on_step(_frame(denoise, last, len(walk) if walk is not None else steps))
            assert last is not None
            outs.append(denoise.space.decode(last.x))
        out = torch.cat(outs) if len(outs) > 1 else outs[0]
        ending.check_finite(denoise, out, x, lambda: run(next(p for p in parts if not finite(out[p]))))
    spent = EVALUATIONS if remembered(denoise) and not known else 0
    return (out, Report(cost.evaluations / count, cost.backwards / count, spent)) if report else out


def leaps(
    flow_map: FlowMap,
    n: int | None = None,
    cond: Cond | None = None,
    steps: int = 1,
    grid: Grid | str | None = None,
    renoise: bool | None = None,
    *,
    seed: Seeds = 0,
    x: Tensor | None = None,
    batch_size: int | None = None,
    on_step: Callable[[Frame], None] | None = None,
) -> Tensor:
    """Draw samples (n, …) by :func:`~reverie.solve.maps.leap`, decoded; what is not said here is as of :func:`sample`."""
    grids.check_steps(steps)
    count = _count(n, cond, x, seed)
    cond, seeds, outs = _condition(flow_map, cond, count), sample_seeds(seed, count), []
    parts = list(batched(count, batch_size or min(count, LARGEST.get(flow_map.device.type, count))))
    if isinstance(denoise := getattr(flow_map, "denoise", None), Denoiser):
        flow_map = copy.copy(flow_map)
        flow_map.denoise = fast(denoise, parts[0].stop, x, cond, len(parts) * steps)  # pyright: ignore[reportAttributeAccessIssue]
    for part in parts:
        some, start = None if cond is None else cond.index(part), None if x is None else x[part].to(flow_map.device)
        outs.append(flow_map.space.decode(leap(flow_map, some, steps, grid, seeds[part], start, on_step, renoise)))
    return ending.drawn(torch.cat(outs))


def batched(n: int, size: int) -> Iterator[slice]:
    """Slices of ``n`` samples, at most ``size`` at a time.

    Raises:
        InputError: for a size below 1.
    """
    size = _at_least_one("batch_size", size)
    for i in range(0, n, size):
        yield slice(i, min(i + size, n))


def _telling(bar: Progress, on_step: Callable[[Frame], None] | None) -> Callable[[Frame], None]:
    """``on_step`` that moves a bar, made for as many units as there are samples, too."""
    n = bar.total

    def telling(frame: Frame) -> None:
        bar.total = n * frame.total
        bar.advance(frame.count)
        if on_step is not None:
            on_step(frame)

    return telling


def _frame(denoise: Denoiser, step: Step, total: int) -> Frame:
    """The state that a step started from, scaled as data is, and what the model expected there."""
    estimate, space = step.estimate, denoise.space
    size = (step.at.alpha**2 + step.at.sigma**2) ** 0.5
    return Frame(
        len(step.x),
        step.index,
        total,
        lambda: space.decode(estimate.x_t / size),
        lambda: space.decode(estimate.x0),
        2.0 * float(step.at.lam),
    )


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


def _count(n: int | None, cond: Cond | None, x: Tensor | None, seed: Seeds) -> int:
    given = [len(v) for v in (x, cond) if v is not None]
    if listed(seed):
        given.append(len(seed))  # pyright: ignore[reportArgumentType]
    if n is None and 0 in given:
        raise InputError("the batch is empty: x, cond or the list of seeds has length 0, so there is nothing to sample")
    return max(given, default=1) if n is None else _at_least_one("n", n)


def _at_least_one(name: str, value: Any) -> int:
    if not hasattr(value, "__index__") or (count := index(value)) < 1:
        raise InputError(f"{name} is at least 1, a whole number: got {value!r}")
    return count


def _condition(denoise: Denoiser | FlowMap, cond: Cond | None, n: int) -> Cond | None:
    if cond is None:
        return None
    cond.check(denoise.conditions)
    return cond.expand(n).to(denoise.device)
