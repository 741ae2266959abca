"""Flow maps: sampling by leaps of one, and the map that a denoiser and one step of DDIM make."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser
from reverie.core.flow_map import FlowMap
from reverie.core.generator import Frame
from reverie.core.noise import SampleSeed, Tape
from reverie.core.schedules import Point
from reverie.core.tensors import Scalar, align
from reverie.solve.grids import Grid, named


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


def leap(
    flow_map: FlowMap,
    cond: Cond | None,
    steps: int,
    grid: Grid | str | None,
    seeds: list[SampleSeed],
    x: Tensor | None = None,
    on_step: Callable[[Frame], None] | None = None,
) -> Tensor:
    """States (B, …) at the grid's end, one evaluation a step: ``x_u = map(x_t, t, u)``.

    Args:
        flow_map: what leaps.
        cond: of B samples.
        steps: evaluations.
        grid: of the leaps; uniform in time by default.
        seeds: of the B samples.
        x: start from this, noise of standard deviation σ at the grid's start.
        on_step: told of each leap.
    """
    points = named("time" if grid is None else grid)(flow_map.schedule, steps)
    if x is None:
        noise = Tape(seeds).draw("init", 0, flow_map.shape).to(flow_map.device)
        x = noise * float(points[0].sigma)
    for i, (at, to) in enumerate(pairwise(points)):
        state, size = x, (at.alpha**2 + at.sigma**2) ** 0.5
        x = flow_map(x, at, to, cond)
        if on_step is not None:
            on_step(Frame(len(x), i, steps, lambda: flow_map.space.decode(state / size), None, 2.0 * float(at.lam)))  # noqa: B023
    return x
