"""Codes as a space to move in: interpolation on the sphere, and temperature."""

import torch
from torch import Tensor

from reverie.core.denoiser import Denoiser
from reverie.core.errors import InputError
from reverie.core.noise import Tape, sample_seeds
from reverie.core.tensors import Scalar, align
from reverie.solve import grids
from reverie.solve.grids import Grid
from reverie.solve.sampling import Seeds


def slerp(a: Tensor, b: Tensor, weight: Scalar) -> Tensor:
    """Spherical interpolation of codes, sample by sample: the direction turns at constant speed, the norm runs linearly from ‖a‖ to ‖b‖.

    ``(sin((1−w)θ)·a/‖a‖ + sin(wθ)·b/‖b‖)/sin θ · ((1−w)‖a‖ + w‖b‖)``, θ the angle between a and b (Shoemake 1985).
    The straight line between two independent codes passes through norms about 29 % too small, where a model has seen no noise.

    Args:
        a, b: (B, …) codes, such as :func:`invert` returns.
        weight: 0 gives a, 1 gives b; a number or one a sample, (B,).

    Returns:
        (B, …).

    Raises:
        InputError: when the shapes differ, or two codes are zero or opposite, so that no direction lies between them.
    """
    if a.shape != b.shape:
        raise InputError(f"slerp runs between codes of one shape: got {tuple(a.shape)} and {tuple(b.shape)}")
    norm_a, norm_b, u, v = _norm(a), _norm(b), a / _norm(a), b / _norm(b)
    # half chords: exact for small angles, where arccos of the cosine loses its digits
    angle = 2.0 * torch.atan2(_norm(u - v), _norm(u + v))
    if not bool((angle < torch.pi - 1e-3).all()):
        raise InputError("slerp has no direction between codes that are zero or opposite")
    w = torch.as_tensor(align(weight, a), dtype=a.dtype, device=a.device)
    # sin(wθ)/sin θ as a ratio of sinc, which keeps its limit w at θ = 0
    near, far = (part * torch.sinc(part * angle / torch.pi) / torch.sinc(angle / torch.pi) for part in (1.0 - w, w))
    return (near * u + far * v) * ((1.0 - w) * norm_a + w * norm_b)


def _norm(x: Tensor) -> Tensor:
    """Of each sample, (B, 1, …)."""
    return torch.linalg.vector_norm(x.flatten(1), dim=1).reshape(-1, *(1,) * (x.ndim - 1))


def initial(
    denoise: Denoiser, n: int, seed: Seeds = 0, temperature: float = 1.0, grid: Grid | str | None = None
) -> Tensor:
    """The noise that :func:`sample` starts from, scaled by a temperature: pass it on as ``sample(denoise, x=…)``.

    For Gaussian data a deterministic solver then draws from ``N(mean, temperature²·covariance)``. In general it pulls every sample
    towards the middle of its basin and of the data, less varied below 1; it is not sampling from ``p^(1/temperature²)``, which would
    keep the modes' places. A stochastic solver forgets it.

    Args:
        n, seed: as in :func:`sample`; temperature 1 gives bitwise its own start.
        temperature: positive factor.
        grid: the grid of the run, for the noise level at its start.

    Returns:
        ``(n, *denoise.shape)`` in the diffused space.

    Raises:
        InputError: for a temperature that is not positive, or n < 1.
    """
    if not temperature > 0.0 or n < 1:
        raise InputError(f"temperature is positive and n at least 1: got temperature={temperature}, n={n}")
    start = grids.named("time" if grid is None else grid)(denoise.schedule, 1)[0]
    noise = Tape(sample_seeds(seed, n)).draw("init", 0, denoise.shape)
    noise = noise.to(denoise.device, torch.promote_types(denoise.dtype, torch.float32))
    return noise * start.sigma * temperature
