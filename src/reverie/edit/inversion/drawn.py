"""No inversion: pictures that the model draws, with the states on the way, for edits of what it has drawn. Nothing is approximate in it."""

import torch

from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser
from reverie.core.noise import Seeds
from reverie.core.progress import track
from reverie.edit.guidance import guide
from reverie.edit.inversion.record import Inversion, described
from reverie.solve.auto import choose
from reverie.solve.grids import Grid
from reverie.solve.invert import outward
from reverie.solve.iterating import iterate
from reverie.solve.latent import initial
from reverie.solve.onestep import DDIM
from reverie.solve.plan import Solver, plain


@torch.no_grad()
def drawn(
    denoise: Denoiser,
    n: int,
    cond: Cond,
    steps: int = 50,
    solver: Solver | str | None = None,
    grid: Grid | str | None = None,
    *,
    scale: float = 7.5,
    seed: Seeds = 0,
) -> Inversion:
    """Draw n pictures, and keep what they were drawn from.

    Args:
        denoise: the model, unguided.
        n: how many.
        cond: of the pictures: one for all, or one a picture.
        steps, solver, grid: as of :func:`reverie.solve.sample`; a deterministic solver, DDIM by default.
        scale: of classifier-free guidance, in the draw and in edits.
        seed: of the noise.

    Raises:
        InputError: as :func:`reverie.solve.sample`.
    """
    guided = guide(denoise, scale)
    solver, grid = choose(guided, DDIM() if solver is None else solver, grid, steps)
    cond.check(denoise.conditions)
    points, cond = outward(denoise.schedule, grid, steps)[::-1], cond.expand(n).to(denoise.device)
    x, walk = initial(denoise, n, seed, grid=grid), plain(points)
    run = iterate(guided, cond=cond, solver=solver, x=x, walk=walk)
    states = [x, *(step.x for step in track(run, "drawing", len(walk), "moves"))]
    return Inversion(
        method="drawn",
        model=described(denoise),
        solver=solver,
        guidance=scale,
        cond=cond,
        points=points,
        images=denoise.space.decode(states[-1] / points[-1].alpha),
        trajectory=torch.stack(states),
    )
