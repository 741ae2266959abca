"""Delta denoising score (Hertz et al. 2023): optimise a picture by the difference of two scores.

Score distillation pulls a picture towards its text and, besides, towards what the model finds noisy about any picture, which blurs it. That
part is the same for the source under its own text, at the same noise: ∇ = ε̂(z_t; target) − ε̂(s_t; source) leaves it out. No gradient goes
through the network.
"""

import math

import torch
from torch import Tensor

from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser
from reverie.core.errors import InputError
from reverie.core.noise import Tape, sample_seeds
from reverie.core.progress import track
from reverie.edit.branches import EDIT, SOURCE
from reverie.edit.guidance import guide
from reverie.solve.sampling import Seeds


@torch.no_grad()
def direction(
    denoise: Denoiser,
    z: Tensor,
    z_source: Tensor,
    source: Cond,
    cond: Cond,
    *,
    step: int = 0,
    levels: tuple[float, float] = (0.18, 0.92),
    seed: Seeds = 0,
) -> Tensor:
    """``ε̂(z_t; cond) − ε̂(s_t; source)`` at one noise level a sample, the same noise for both; (n, …) in the diffused space.

    Raises:
        InputError: for levels outside of (0, 1).
    """
    low, high = levels
    if not 0.0 < low <= high < 1.0:
        raise InputError(f"levels are (low, high) of σ/(α + σ) with 0 < low <= high < 1: got {levels}")
    n, tape = len(z), Tape(sample_seeds(seed, len(z)), torch.float64)
    uniform = 0.5 * (1.0 + torch.erf(tape.draw("time", step, ()) / math.sqrt(2.0)))
    tau = low + (high - low) * uniform
    point = denoise.point(denoise.schedule.at(torch.log1p(-tau) - torch.log(tau)), z)
    noise = tape.draw("dds", step, z.shape[1:]).to(z)
    states = {name: point.alpha * x + point.sigma * noise for name, x in ((EDIT, z), (SOURCE, z_source))}
    conds = {EDIT: cond.expand(n).to(z.device), SOURCE: source.expand(n).to(z.device)}
    estimates = denoise.branches(states, point, conds)
    return estimates[EDIT].eps - estimates[SOURCE].eps


def dds(
    denoise: Denoiser,
    images: Tensor,
    source: Cond,
    cond: Cond,
    steps: int = 200,
    *,
    rate: float = 0.05,
    levels: tuple[float, float] = (0.18, 0.92),
    scale: float = 7.5,
    seed: Seeds = 0,
) -> Tensor:
    """Edit by descent along the delta denoising score.

    Args:
        denoise: the model, guided or not.
        images: (n, C, H, W) in [−1, 1].
        source: condition of the pictures: one for all, or one a picture.
        cond: of the edit.
        steps: of gradient descent, an evaluation of both each.
        rate: of descent.
        levels: σ/(α + σ) is uniform between these: the paper's 50 to 950 of 1000 steps.
        scale: of classifier-free guidance.
        seed: of levels and noises.

    Returns:
        (n, C, H, W).

    Raises:
        InputError: for levels outside of (0, 1), or conditions that do not fit.
    """
    guided = guide(denoise, scale)
    for each in (source, cond):
        each.check(denoise.conditions)
    z = original = denoise.space.encode(images.to(denoise.device, torch.promote_types(images.dtype, torch.float32)))
    for i in track(range(steps), "editing", steps, "steps"):
        z = z - rate * direction(guided, z, original, source, cond, step=i, levels=levels, seed=seed)
    return denoise.space.decode(z)
