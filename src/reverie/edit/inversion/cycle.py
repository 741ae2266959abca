"""CycleDiffusion's encoder (Wu & De la Torre 2023, "A latent space of stochastic diffusion models", algorithm 1, "DPM-Encoder").

The states are a draw of the forward process given the picture, from noise to data, x_u ~ q(x_u | x_t, x0), and the noises those that the
model would have to draw to follow. Unlike the edit-friendly ones they are nearly native: of unit size, and hold less of the layout.
"""

import torch
from torch import Tensor

from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser
from reverie.core.noise import Seeds, Tape, sample_seeds
from reverie.core.progress import track
from reverie.core.tensors import combine
from reverie.edit.guidance import guide
from reverie.edit.inversion.noises import drawn, moves
from reverie.edit.inversion.ode import begin
from reverie.edit.inversion.record import Inversion, described, kept
from reverie.solve.grids import Grid
from reverie.solve.onestep import DDIM
from reverie.solve.stochastic import Stochastic


@torch.no_grad()
def cycle(
    denoise: Denoiser,
    images: Tensor,
    cond: Cond | None = None,
    steps: int = 100,
    grid: Grid | str | None = None,
    *,
    scale: float = 1.0,
    eta: float = 0.1,
    seed: Seeds = 0,
) -> Inversion:
    """Encode pictures as the noises of a stochastic run. Exact, whatever the model is.

    Args:
        denoise: the model, unguided.
        images: (n, C, H, W) in [−1, 1].
        cond: of the pictures: one for all, or one a picture.
        steps, grid: as of :func:`reverie.solve.sample`.
        scale: of guidance under the pictures' own condition; without one there is none.
        eta: of DDIM, (0, 1]; the paper has 0.1 for text.
        seed: of the forward process.

    Raises:
        InputError: as :func:`reverie.solve.invert`; for η out of range.
    """
    clean, cond, _, points = begin(denoise, images, cond, steps, DDIM(eta), grid)
    steps_ = moves(denoise, eta, points)
    scale = 1.0 if cond is None else scale
    guided = guide(denoise, scale)
    z, tape = clean / points[-1].alpha, Tape(sample_seeds(seed, len(images)))
    x = points[0].alpha * z + points[0].sigma * tape.draw("invert", 0, z.shape[1:]).to(z)
    states, noises = [x], []
    every = enumerate(zip(points, points[1:], steps_, strict=False), 1)
    for i, (at, to, step) in track(every, "inverting", len(points) - 1, "moves"):
        keep, fresh = Stochastic(eta, "ddim").mix(at, to)
        own = (x - at.alpha * z) / at.sigma
        new = tape.draw("invert", i, z.shape[1:]).to(z)
        wanted = combine((to.alpha, to.sigma * keep, to.sigma * fresh), (z, own, new)) if to != points[-1] else clean
        noise, x = drawn(guided, step, x, wanted, cond)
        states.append(x)
        noises.append(noise)
    return Inversion(
        method="cycle",
        model=described(denoise),
        solver=DDIM(eta),
        guidance=scale,
        cond=cond,
        points=points,
        images=kept(images),
        trajectory=torch.stack(states),
        noises=torch.stack(noises),
    )
