"""Guidance of an edit: classifier-free, as the recipe of a model from a run has it."""

import torch
from torch import Tensor

from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser
from reverie.core.errors import InputError
from reverie.core.schedules import Point
from reverie.guide.cfg import CFG, cfg


def guide(denoise: Denoiser, scale: float) -> Denoiser:
    """The denoiser at a guidance scale, 1 for as it is; of a model from a run where its recipe guides, else at every noise level.

    Raises:
        InputError: for a model from a run that cannot be guided.
    """
    if scale == 1.0:
        return denoise
    return cfg(denoise, scale) if denoise.sampling is None else denoise.sampling.guided(denoise, scale)


def scale_at(denoise: Denoiser, scale: float, point: Point, x: Tensor) -> float:
    """The scale that :func:`guide` acts with at a point."""
    guided = guide(denoise, scale)
    return float(torch.as_tensor(guided.strength(point, x))) if isinstance(guided, CFG) else scale


class NegativePrompt(CFG):
    """Guidance away from a condition a sample (Miyake et al. 2023), where :func:`guide` guides."""

    def __init__(self, base: Denoiser, scale: float, source: Cond) -> None:
        super().__init__(base, scale, getattr(guide(base, scale), "interval", None))
        self.source = source

    @property
    def together(self) -> bool:
        return True

    def _against(self, cond: Cond | None, x: Tensor) -> Cond:
        if cond is None:
            raise InputError("negative-prompt inversion guides towards a condition: pass cond=")
        source = self.source.to(x.device)
        return source.index([i % len(source) for i in range(len(x))])
