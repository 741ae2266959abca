"""Score distillation: a denoiser as the loss of an image, or of what makes one (Poole et al. 2023, "DreamFusion", eq. 3)."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser
from reverie.core.errors import InputError
from reverie.core.noise import Tape, sample_seeds
from reverie.core.schedules import Point
from reverie.core.tensors import Scalar
from reverie.solve.sampling import Seeds


def variance(point: Point) -> Scalar:
    """``σ²/(α² + σ²)``, the paper's w = 1 − ᾱ on any path."""
    return point.sigma**2 / (point.alpha**2 + point.sigma**2)


def sds(
    denoise: Denoiser,
    images: Tensor,
    cond: Cond | None = None,
    *,
    step: int = 0,
    times: tuple[float, float] = (0.02, 0.98),
    weight: Callable[[Point], Scalar] = variance,
    seed: Seeds = 0,
) -> Tensor:
    """A loss of each image, (B,), whose gradient is ``w(t)·(ε̂(x_t) − ε)``: no gradient goes through the network.

    Its value means nothing, only its gradient. It seeks modes: images that start apart end at the same one (tested), so guide with a large
    scale, ``sds(rv.guide.cfg(denoise, 100.0), …)``, where variety is not wanted.

    Args:
        denoise: guided or not.
        images: (B, C, H, W) in [−1, 1], differentiable in whatever is optimised; encoded by the denoiser's space.
        cond: one condition for all, or one an image.
        step: of the optimisation: each draws its own t and ε.
        times: t is uniform between these; both may be the same.
        weight: w.
        seed: of t and ε.

    Raises:
        InputError: for times outside of (0, 1].
    """
    low, high = times
    if not 0.0 < low <= high <= 1.0:
        raise InputError(f"times are (low, high) with 0 < low <= high <= 1: got {times}")
    x0 = denoise.space.encode(images)
    n, tape = len(x0), Tape(sample_seeds(seed, len(x0)), torch.float64)
    uniform = 0.5 * (1.0 + torch.erf(tape.draw("time", step, ()) / math.sqrt(2.0)))
    point = denoise.point((low + (high - low) * uniform).to(x0), x0)
    noise = tape.draw("sds", step, x0.shape[1:]).to(x0)
    with torch.no_grad():
        x_t = point.alpha * x0 + point.sigma * noise
        error = denoise(x_t, point, None if cond is None else cond.expand(n).to(x0.device)).eps - noise
        gradient = weight(point) * error
    return (gradient * x0).flatten(1).sum(1)
