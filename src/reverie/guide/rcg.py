"""Representation-conditioned generation (Li et al. 2024): unconditional pictures by way of representations.

A small diffusion draws a representation; a diffusion of pictures, conditioned on representations of its training pictures, draws a picture
given that one. No label enters anywhere.
"""

from typing import Any

import torch
from torch import Tensor

from reverie.core.condition import Cond, Vector
from reverie.core.denoiser import Denoiser
from reverie.core.errors import InputError
from reverie.solve.sampling import sample


def standardise(features: Tensor) -> Tensor:
    """Each representation (B, d) with mean 0 and standard deviation 1 over its own features, as the paper has it."""
    centred = features - features.mean(1, keepdim=True)
    return centred / centred.std(1, correction=0, keepdim=True).clamp(min=1e-6)


def rcg(
    pixels: Denoiser,
    vectors: Denoiser,
    n: int = 1,
    *,
    seed: int = 0,
    name: str = "vector",
    vector_steps: int = 50,
    **how: Any,
) -> tuple[Tensor, Tensor]:
    """Draw representations, then a picture for each.

    Sample i of a seed is the same whatever ``n`` is.

    Args:
        pixels: conditioned on ``name``, a vector; guided or not.
        vectors: draws representations (d,), standardised as the ones that ``pixels`` was trained on.
        n: how many.
        seed: of both; their noise is independent.
        name: of the condition.
        vector_steps: of the first diffusion, which is cheap.
        how: for the pictures, as of :func:`reverie.sample`.

    Returns:
        Pictures (n, C, H, W), and the representations (n, d).

    Raises:
        InputError: when the two do not fit together.
    """
    spec = pixels.conditions.get(name)
    if not isinstance(spec, Vector) or (spec.dim,) != tuple(vectors.shape):
        raise InputError(
            f"the model of pictures is to be conditioned on {name!r}, a vector of the shape that is drawn, {tuple(vectors.shape)}: "
            f"it takes {dict(pixels.conditions) or 'nothing'}"
        )
    with torch.no_grad():
        drawn = sample(vectors, n, seed=[(seed ^ 0x5EED, i) for i in range(n)], steps=vector_steps)
    drawn = standardise(drawn)
    return sample(pixels, n, Cond(**{name: drawn}), seed=seed, **how), drawn
