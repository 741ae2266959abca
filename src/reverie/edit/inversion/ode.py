"""ODE inversion (Song et al. 2021, section 4.3; Dhariwal & Nichol 2021, appendix F): the solver on the grid turned round, kept.

It comes back to the order of the solver; under guidance it does not come back at all, however many steps it takes: what the model adds on
the way up under one guidance is not what it takes off on the way down under another.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser
from reverie.core.errors import InputError
from reverie.core.progress import track
from reverie.core.schedules import HostPoint
from reverie.core.tensors import check_range
from reverie.edit.guidance import guide
from reverie.edit.inversion.record import Inversion, described, kept
from reverie.solve import ending
from reverie.solve.auto import choose
from reverie.solve.grids import Grid
from reverie.solve.invert import outward, turned
from reverie.solve.iterating import Step, iterate
from reverie.solve.plan import Solver
from reverie.solve.rungekutta import Heun


def ode(
    denoise: Denoiser,
    images: Tensor,
    cond: Cond | None = None,
    steps: int = 50,
    solver: Solver | str | None = None,
    grid: Grid | str | None = None,
    *,
    scale: float = 1.0,
) -> Inversion:
    """Invert pictures along the flow, as :func:`reverie.solve.invert` does, and keep the states on the way.

    Args:
        denoise: the model; it is inverted as it is, without further guidance.
        images: (n, C, H, W) in [−1, 1].
        cond: of the pictures: one for all, or one a picture.
        steps, solver, grid: as of :func:`reverie.solve.invert`; Heun's method by default.
        scale: guidance that edits decode with, 1 by default.

    Raises:
        InputError: as :func:`reverie.solve.invert`.
    """
    solver = Heun("straight") if solver is None else solver
    return along(denoise, images, cond, steps, solver, grid, method="ode", scale=scale)


@torch.no_grad()
def along(
    denoise: Denoiser,
    images: Tensor,
    cond: Cond | None,
    steps: int,
    solver: Solver | str,
    grid: Grid | str | None,
    *,
    method: str,
    scale: float,
    within: bool = False,
) -> Inversion:
    """The inversion of a deterministic solver; ``within`` the guidance of ``scale``, or without any."""
    x, cond, solver, points = begin(denoise, images, cond, steps, solver, grid)
    walk = turned(solver, denoise.schedule, points[::-1])
    guided = guide(denoise, scale) if within else denoise

    def run() -> Iterator[Step]:
        return iterate(guided, cond=cond, solver=solver, x=x, walk=walk)

    states = [x, *(step.x for step in track(run(), "inverting", len(walk), "moves"))]
    ending.check_finite(guided, states[-1], images, run)
    return Inversion(
        method=method,
        model=described(denoise),
        solver=solver,
        guidance=scale,
        cond=cond,
        points=points,
        images=kept(images),
        trajectory=torch.stack(states[::-1]),
    )


def begin(
    denoise: Denoiser, images: Tensor, cond: Cond | None, steps: int, solver: Solver | str, grid: Grid | str | None
) -> tuple[Tensor, Cond | None, Solver, tuple[HostPoint, ...]]:
    """What every inversion begins with: the state of data, the condition of each picture, the solver, and the points from noise to data.

    Raises:
        InputError: for pictures of another shape or range, or a condition that does not fit.
    """
    check_range(images, "images")
    solver, grid = choose(denoise, solver, grid, steps)
    points = outward(denoise.schedule, grid, steps)
    dtype = torch.promote_types(torch.promote_types(images.dtype, torch.float32), denoise.dtype)
    z = denoise.space.encode(images.to(denoise.device, dtype))
    if tuple(z.shape[1:]) != tuple(denoise.shape):
        raise InputError(f"the pictures encode to {tuple(z.shape[1:])}, the model's samples are {tuple(denoise.shape)}")
    if cond is not None:
        cond.check(denoise.conditions)
        cond = cond.expand(len(images)).to(denoise.device)
    return points[0].alpha * z, cond, solver, points[::-1]
