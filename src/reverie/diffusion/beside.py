"""A small network beside a diffusion model that stays as it is: what a ControlNet, a sketch's predictor and a reader of boxes share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, Self, TypeVar

import torch
from torch import Tensor, nn

from reverie.core.condition import Cond
from reverie.core.denoiser import NetDenoiser
from reverie.core.task import Preview
from reverie.diffusion.showing import drawn
from reverie.diffusion.texts import reader_of
from reverie.solve import Sampler

N = TypeVar("N", bound=nn.Module)


class Beside(Generic[N]):
    """What a run of such a task gives.

    Attributes:
        base: the model that it was trained on, as it was, frozen.
        net: what is beside it.
    """

    def __init__(self, base: NetDenoiser, net: N) -> None:
        self.base, self.net = base, net
        for module in (base.net, reader_of(base)):
            if module is not None:
                module.requires_grad_(False)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The same elsewhere."""
        self.base.to(device, dtype)
        self.net.to(device=device, dtype=dtype)
        return self


def shown(
    draws: Callable[[int], Sampler], above: Sequence[Tensor], cond: Cond | None, seed: int
) -> Callable[[NetDenoiser], Preview]:
    """Pictures ``above`` (n, C, H, W), and below them what is drawn, n or as many as the time allows, told ``cond``."""

    def show(denoise: NetDenoiser) -> Preview:
        told = cond
        if told is not None:
            told = told.to(denoise.device)
            told = told if denoise.told is None else denoise.told(told)
        with torch.no_grad():
            made = drawn(draws, len(above[0]), told, seed).cpu()
        return Preview(torch.cat([part[: len(made)] for part in (*above, made)]), len(made))

    return show
