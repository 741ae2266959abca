"""Edit-friendly DDPM inversion (Huberman-Spiegelglas et al. 2024, "An edit friendly DDPM noise space", algorithm 1).

Every state is noised from the picture by a draw of its own, x_t = α·x0 + σ·z_t, and the noise of each ancestral move is what leads from one
to the next: n_t = (x_u − μ(x_t))/s. Neighbouring states have independent noises, so these are larger than native ones and anticorrelated,
and they hold the picture's layout: sampled with another prompt and the same n, it stays.
"""

import torch
from torch import Tensor

from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser
from reverie.core.noise import Seeds, Tape, sample_seeds
from reverie.core.progress import track
from reverie.edit.guidance import guide
from reverie.edit.inversion.noises import drawn, moves
from reverie.edit.inversion.ode import begin
from reverie.edit.inversion.record import Inversion, described, kept
from reverie.solve.grids import Grid
from reverie.solve.onestep import DDIM


@torch.no_grad()
def edit_friendly(
    denoise: Denoiser,
    images: Tensor,
    cond: Cond | None = None,
    steps: int = 100,
    grid: Grid | str | None = None,
    *,
    scale: float = 3.5,
    eta: float = 1.0,
    seed: Seeds = 0,
) -> Inversion:
    """Find the noises of a stochastic run that draws the pictures. Exact, whatever the model is.

    The paper edits with a scale of 15 and leaves the first 36 of 100 moves out: ``reconstruct(denoise, code, cond, scale=15, skip=36)``.

    Args:
        denoise: the model, unguided.
        images: (n, C, H, W) in [−1, 1].
        cond: of the pictures: one for all, or one a picture.
        steps, grid: as of :func:`reverie.solve.sample`.
        scale: of guidance under the pictures' own condition; without one there is none.
        eta: of DDIM, (0, 1]; 1 is ancestral sampling.
        seed: of the states.

    Raises:
        InputError: as :func:`reverie.solve.invert`; for η out of range.
    """
    clean, cond, _, points = begin(denoise, images, cond, steps, DDIM(eta), grid)
    steps_ = moves(denoise, eta, points)
    scale = 1.0 if cond is None else scale
    guided = guide(denoise, scale)
    z, tape = clean / points[-1].alpha, Tape(sample_seeds(seed, len(images)))
    states = [p.alpha * z + p.sigma * tape.draw("invert", i, z.shape[1:]).to(z) for i, p in enumerate(points[:-1])]
    states, noises = [*states, clean], []
    for i, step in track(enumerate(steps_), "inverting", len(steps_), "moves"):
        noise, states[i + 1] = drawn(guided, step, states[i], states[i + 1], cond)
        noises.append(noise)
    return Inversion(
        method="edit_friendly",
        model=described(denoise),
        solver=DDIM(eta),
        guidance=scale,
        cond=cond,
        points=points,
        images=kept(images),
        trajectory=torch.stack(states),
        noises=torch.stack(noises),
    )
