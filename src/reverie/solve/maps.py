"""Flow maps: sampling by leaps of one, the map that a denoiser and one step of DDIM make, and the exact one of a Gaussian."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser
from reverie.core.exact import GaussianMixture
from reverie.core.flow_map import FlowMap
from reverie.core.generator import Frame
from reverie.core.noise import SampleSeed, Tape
from reverie.core.schedules import Point, Schedule
from reverie.core.space import Identity
from reverie.core.tensors import Scalar, align
from reverie.solve.grids import Grid, named

MADE = "this model was made to draw"
"""How the warning begins that a flow map is drawn in other steps than its own."""


class DDIMStep(FlowMap):
    """``x_s = α_s·x0 + σ_s·ε`` with the estimates at t: the flow map that is exact where a Gaussian has one point (Song et al. 2021).

    Args:
        denoise: the model, guided or not.
    """

    def __init__(self, denoise: Denoiser) -> None:
        self.denoise = denoise
        self.schedule, self.shape, self.conditions, self.space = (
            denoise.schedule,
            denoise.shape,
            denoise.conditions,
            denoise.space,
        )

    @property
    def device(self) -> torch.device:
        return self.denoise.device

    def __call__(self, x: Tensor, t: Point | Scalar, s: Point | Scalar, cond: Cond | None = None) -> Tensor:
        at, to = self.denoise.point(t, x), self.denoise.point(s, x)
        if not isinstance(at.t, Tensor) and not isinstance(to.t, Tensor) and at.t == to.t:
            return x
        moved = self.denoise(x, at, cond).linear(to.alpha, to.sigma)
        if isinstance(at.t, Tensor) or isinstance(to.t, Tensor):
            same = torch.as_tensor(at.t, device=x.device) == torch.as_tensor(to.t, device=x.device)
            return torch.where(torch.as_tensor(align(same, x), device=x.device).bool(), x, moved)
        return moved


class GaussianMap(FlowMap):
    """The exact flow map of ``N(μ, Σ)``.

    Along each axis of Σ, of variance v: ``x_s − α_sμ = √((α_s²v + σ_s²)/(α_t²v + σ_t²))·(x_t − α_tμ)``.

    Args:
        data: a mixture of one component.
        schedule: the path.
    """

    def __init__(self, data: GaussianMixture, schedule: Schedule) -> None:
        self.data, self.schedule, self.shape, self.space, self.conditions = data, schedule, data.shape, Identity(), {}

    def __call__(self, x: Tensor, t: Point | Scalar, s: Point | Scalar, cond: Cond | None = None) -> Tensor:
        (mean,), (values,), (axes,) = self.data.means, self.data.values, self.data.vectors
        flat = x.flatten(1).to(mean)
        at, to = (p if isinstance(p, Point) else self.schedule.point(p).align(flat) for p in (t, s))
        growth = (to.alpha**2 * values + to.sigma**2) / (at.alpha**2 * values + at.sigma**2)
        out = to.alpha * mean + ((flat - at.alpha * mean) @ axes * growth**0.5) @ axes.T
        return out.view_as(x).to(x.dtype)


def leap(
    flow_map: FlowMap,
    cond: Cond | None,
    steps: int,
    grid: Grid | str | None,
    seeds: list[SampleSeed],
    x: Tensor | None = None,
    on_step: Callable[[Frame], None] | None = None,
    renoise: bool | None = None,
) -> Tensor:
    """States (B, …) at the grid's end, one evaluation a step: ``x_u = map(x_t, t, u)``, or α_u·map(x_t, t, 0) + σ_u·z with fresh z.

    Args:
        flow_map: what leaps.
        cond: of B samples.
        steps: evaluations.
        grid: of the leaps; uniform in time by default.
        seeds: of the B samples.
        x: start from this, noise of standard deviation σ at the grid's start.
        on_step: told of each leap.
        renoise: as of :class:`~reverie.solve.sampler.Leaps`.
    """
    if flow_map.trained and steps not in flow_map.trained:
        made = " or ".join(map(str, flow_map.trained))
        warnings.warn(f"{MADE} in {made} steps, not in {steps}", stacklevel=2)
    points = named("time" if grid is None else grid)(flow_map.schedule, steps)
    renoise, clean, tape = not flow_map.anywhere if renoise is None else renoise, flow_map.schedule.clean(), Tape(seeds)
    if x is None:
        x = tape.draw("init", 0, flow_map.shape).to(flow_map.device) * float(points[0].sigma)
    for i, (at, to) in enumerate(pairwise(points)):
        state, size = x, (at.alpha**2 + at.sigma**2) ** 0.5
        x = flow_map(x, at, clean if renoise else to, cond)
        if renoise and to.sigma > 0.0:
            x = to.alpha * x + to.sigma * tape.draw("renoise", i, flow_map.shape).to(x)
        if on_step is not None:
            on_step(Frame(len(x), i, steps, lambda: flow_map.space.decode(state / size), None, 2.0 * float(at.lam)))  # noqa: B023
    return x
