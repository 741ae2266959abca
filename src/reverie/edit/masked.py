"""Editing inside a mask: blended diffusion (Avrahami et al. 2022) and RePaint's time travel (Lugmayr et al. 2022).

After each move what lies outside the mask is put back, noised as it should be at that level; the model sees it and fits the rest. Walking
stretches several times lets the rest hear of it. At the end the pixels outside the mask are pasted, so that they are the picture's own bit
for bit, also where a space lies between pixels and what is diffused.
"""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser
from reverie.core.errors import InputError
from reverie.core.noise import Seeds, Tape, sample_seeds
from reverie.core.tensors import check_range
from reverie.edit.guidance import guide
from reverie.guide.pixels import as_mask, mask_of
from reverie.inverse.operators import Inpaint
from reverie.inverse.repaint import RePaint
from reverie.solve.auto import choose
from reverie.solve.grids import Grid
from reverie.solve.onestep import DDPM
from reverie.solve.plan import Solver, plain
from reverie.solve.sampling import sample
from reverie.solve.walks import repaint


def masked(
    denoise: Denoiser,
    images: Tensor,
    mask: Tensor,
    cond: Cond | None = None,
    start: float = 1.0,
    solver: Solver | str | None = None,
    steps: int = 50,
    grid: Grid | str | None = None,
    *,
    jump: int = 10,
    repeat: int = 1,
    scale: float = 1.0,
    seed: Seeds = 0,
) -> Tensor:
    """Edit what lies inside a mask; outside, the pixels stay as they are, bit for bit.

    Args:
        denoise: the model, guided or not, of pixels or codes of them.
        images: (n, C, H, W) in [−1, 1].
        mask: true or 1 where the picture is edited: (H, W), (1, H, W) or (n or 1, 1, H, W).
        cond: of the edit: one for all, or one a picture.
        start: time in (0, 1] to noise to; 1 forgets what was inside the mask.
        solver: what moves; ancestral sampling by default.
        steps, grid: as of :func:`reverie.solve.sample`.
        jump, repeat: of :func:`reverie.solve.walks.repaint`; a repeat of 1 blends without time travel.
        scale: of classifier-free guidance.
        seed: of the noise.

    Returns:
        (n, C, H, W).

    Raises:
        InputError: for a mask that is not of zeros and ones, or of another size than the pictures; as :func:`reverie.solve.sample`.
    """
    check_range(images, "images")
    if not 0.0 < start <= 1.0:
        raise InputError(f"start is a time in (0, 1], 1 is pure noise: got {start}")
    solver, grid = choose(denoise, DDPM() if solver is None else solver, grid, steps)
    inside = mask_of(images, as_mask(mask))
    z = denoise.space.encode(images.to(denoise.device, torch.promote_types(images.dtype, torch.float32)))
    small = adaptive_max_pool2d(inside.amax(1, keepdim=True), z.shape[-2:]).to(
        z
    )  # a cell is edited where any of its pixels is
    corrected = RePaint(Inpaint(1.0 - small), (1.0 - small) * z, solver=solver)
    first = denoise.schedule.point(start)
    points = replace(grid, start=2.0 * first.lam)(denoise.schedule, steps)  # pyright: ignore[reportArgumentType]
    noise = Tape(sample_seeds(seed, len(z))).draw("init", 0, z.shape[1:]).to(z)
    walk = plain(points) if repeat == 1 else repaint(points, jump, repeat)
    guided = guide(denoise, scale)
    edited = sample(
        guided,
        len(z),
        cond,
        corrected,
        seed=seed,
        x=first.alpha * z + first.sigma * noise,
        walk=walk,
        progress="editing",
        scale=1.0 if guided is denoise else None,
    )
    return paste(edited, images, mask)


def paste(edited: Tensor, images: Tensor, mask: Tensor) -> Tensor:
    """The edit inside the mask (1 there), the pictures' own pixels outside, bit for bit.

    Raises:
        InputError: as :func:`masked`.
    """
    return torch.where(mask_of(images, as_mask(mask)).bool(), edited.to(images), images)
