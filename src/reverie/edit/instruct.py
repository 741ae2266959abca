"""InstructPix2Pix (Brooks et al. 2023): a picture edited by a model that was trained to, by an instruction, in one run from noise.

The model is a run of the task "instruct" (:mod:`reverie.diffusion.instructing`), guided by :func:`reverie.guide.instruct`. It is trained on
what :func:`reverie.edit.pairs` makes: pictures that a text-to-image model draws, before and after, by Prompt-to-Prompt.
"""

import torch
from torch import Tensor

from reverie import guide
from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser
from reverie.core.noise import Seeds
from reverie.core.tensors import check_range
from reverie.solve.grids import Grid
from reverie.solve.plan import Solver
from reverie.solve.sampling import sample


def instruct(
    denoise: Denoiser,
    images: Tensor,
    cond: Cond,
    *,
    scale: float = 7.5,
    image_scale: float = 1.5,
    solver: Solver | str | None = None,
    steps: int = 50,
    grid: Grid | str | None = None,
    seed: Seeds = 0,
) -> Tensor:
    """Edit by instruction.

    Args:
        denoise: what a run of the task "instruct" gives.
        images: (n, C, H, W) in [−1, 1].
        cond: the instruction: one for all, or one a picture.
        scale: how far it is followed.
        image_scale: how much of the picture is kept.
        solver, steps, grid: as of :func:`reverie.solve.sample`.
        seed: of the noise.

    Returns:
        (n, C, H, W).

    Raises:
        InputError: for a model that was not trained to edit, or as :func:`reverie.solve.sample`.
    """
    check_range(images, "images")
    guided, cond = guide.instruct(denoise, scale, image_scale), cond.expand(len(images))
    shown = images.to(denoise.device, torch.promote_types(images.dtype, torch.float32))
    told = Cond(**{name: cond[name] for name in cond if name != "image"}, image=shown)
    return sample(guided, len(images), told, solver, steps, grid, seed, progress="editing")
