"""``sample``: run a solver's plan on a denoiser, in batches, and decode what it ends with."""

import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, overload

import torch
from torch import Tensor

from reverie.core.condition import Cond, as_cond
from reverie.core.conditioner import spoken
from reverie.core.count import Count
from reverie.core.denoiser import Denoiser, counted
from reverie.core.errors import InputError
from reverie.core.flow_map import FlowMap
from reverie.core.generator import Frame, Generator
from reverie.core.noise import NoiseTape, SampleSeed, Seeds, Tape, Tempered, sample_seeds
from reverie.core.progress import Progress
from reverie.core.tensors import finite
from reverie.solve import ending, grids
from reverie.solve.auto import STEPS, recalled
from reverie.solve.corrector import Corrector
from reverie.solve.fast import LARGEST, fast, fitting
from reverie.solve.grids import Grid
from reverie.solve.iterating import Ends, Step, at_least_one, conditioned, how_many, iterate
from reverie.solve.maps import leap
from reverie.solve.plan import Solver, Walk
from reverie.solve.probe import EVALUATIONS, remembered

MakesTape = Callable[[list[SampleSeed]], NoiseTape]


class Report(NamedTuple):
    """What a run cost: passes through networks a sample, forward (``evaluations``) and back (``backwards``), and besides all the passes of
    single samples that a probe of the model took (``probe``), see :mod:`reverie.solve.probe`."""

    evaluations: float
    backwards: float
    probe: int = 0


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
    tape: MakesTape = Tape,
    *,
    ends: Ends | None = None,
    scale: float | None = None,
    temperature: float | None = None,
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
    tape: MakesTape = Tape,
    *,
    ends: Ends | None = None,
    scale: float | None = None,
    temperature: float | None = None,
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
    tape: MakesTape = Tape,
    *,
    ends: Ends | None = None,
    scale: float | None = None,
    temperature: float | None = None,
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
        temperature: of the noise that a run begins from, its standard deviation in units of the path's; by default that of the recipe, else
            1. Below 1 samples lie nearer to the middle and are less varied, see :func:`reverie.solve.initial`.
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
            "temperature": temperature,
            "report": report or None,
        }
        if given := [name for name, value in bound.items() if value is not None]:
            raise InputError(f"a {type(denoise).__name__} draws in its own way: leave {', '.join(given)} out")
        with Progress(progress, total=how_many(n, cond, None, seed), unit="steps") as bar:
            telling = _telling(bar, on_step) if progress else on_step
            return ending.drawn(denoise.sample(n, cond, seed=seed, batch_size=batch_size, on_step=telling))
    if isinstance(denoise, FlowMap):
        bound = {
            "solver": solver,
            "start": start,
            "walk": walk,
            "ends": ends,
            "scale": scale,
            "temperature": temperature,
            "report": report or None,
        }
        if given := [name for name, value in bound.items() if value is not None]:
            raise InputError(f"a flow map leaps over the grid: leave {', '.join(given)} out")
        count = next(n for n in (steps, denoise.steps, *denoise.trained, STEPS) if n is not None)
        return leaps(denoise, n, cond, count, grid, seed=seed, x=x, batch_size=batch_size, on_step=on_step)
    tape = _tempered(tape, denoise, x, temperature)
    denoise, solver, steps, grid = recalled(denoise, cond, solver, steps, grid, scale)
    grids.check_steps(steps)
    count = how_many(n, cond, x, seed)
    cond = conditioned(denoise, cond, count)
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


def _tempered(tape: MakesTape, denoise: Denoiser, x: Tensor | None, temperature: float | None) -> MakesTape:
    """What makes the tapes of a run that begins from noise of a temperature: the given one, or that of the model's recipe."""
    if x is not None and temperature is not None:
        raise InputError(
            "temperature= is of the noise that a run begins from, and that is given as x=: leave one of them out"
        )
    own = 1.0 if denoise.sampling is None or x is not None else denoise.sampling.temperature
    chosen = own if temperature is None else temperature
    if not 0.0 < chosen < float("inf"):
        raise InputError(f"temperature is a positive number, 1 for the model's own noise: got {chosen}")
    return tape if chosen == 1.0 else lambda seeds: Tempered(tape(seeds), chosen)


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
    count = how_many(n, cond, x, seed)
    cond, seeds, outs = conditioned(flow_map, cond, count), sample_seeds(seed, count), []
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
    size = at_least_one("batch_size", size)
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
