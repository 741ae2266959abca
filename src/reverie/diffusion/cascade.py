"""Cascades: small pictures, then a model that enlarges them, then another.

Ho et al., "Cascaded Diffusion Models for High Fidelity Image Generation", JMLR 2022; Saharia et al., "Photorealistic Text-to-Image
Diffusion Models with Deep Language Understanding" (Imagen), NeurIPS 2022. A stage is the super-resolution of
:mod:`reverie.diffusion.palette`. Where it was trained with augmentation, noise of a level s is added to the small picture and s is told
(section 4.2 of the first): what the stage before drew wrong then passes for noise. Its clean estimate is cut to the range of pixels (static
thresholding, section 2.3 of the second). Dynamic thresholding is for guided stages: without guidance it makes grey of what is white.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from reverie import guide
from reverie.core.denoiser import Denoiser
from reverie.core.errors import InputError
from reverie.diffusion import palette
from reverie.diffusion.palette import LEVEL

USUAL = 0.1
"""The level of noise in what a stage is shown, for one that is told it (Imagen's samples take 0.1 to 0.3)."""


def enlarge(stage: Denoiser, images: Tensor, *, level: float | None = None, seed: int = 0, **how: Any) -> Tensor:
    """What a stage makes of smaller pictures.

    Args:
        stage: what a run of the task "palette" gives that has learned superres; in :func:`reverie.guide.threshold` with dynamic
            thresholding.
        images: (n, C, h, w) in [−1, 1], whose sides divide the stage's by the factor that it has learned.
        level: of noise that is added to them, 0 to 1; :data:`USUAL` without, or 0 where the stage is not told it.
        how: solver, steps, grid and progress of :func:`reverie.sample`.

    Returns:
        (n, C, H, W).

    Raises:
        InputError: for pictures whose sides do not divide the stage's, or a level that it does not take.
    """
    (height, width), (rows, columns) = stage.shape[1:], images.shape[2:]
    factor = height // rows
    if (factor * rows, factor * columns) != (height, width):
        raise InputError(f"the stage draws {height}x{width}: it does not enlarge {rows}x{columns}")
    level = (USUAL if LEVEL in stage.conditions else 0.0) if level is None else level
    left = palette.small(images.clamp(-1.0, 1.0), factor)
    return palette.restore(guide.threshold(stage, quantile=0.0), left, level=level, seed=seed, **how)
