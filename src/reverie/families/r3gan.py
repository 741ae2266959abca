"""R3GAN: a relativistic loss, R1 and R2, and residual networks of today without any trick (Huang, Gokaslan, Kuleshov & Tompkin, "The GAN is
dead; long live the GAN! A modern baseline GAN", NeurIPS 2024).

Generator and critic mirror each other: residual blocks of a grouped convolution between two of 1x1 with twice the channels (ResNeXt with
the bottleneck inverted), LeakyReLU, linear resampling, no normalisation, weights such that residual branches begin at zero (Fixup, Zhang,
Dauphin & Ma 2019). The pictures' finest grid is of squares of pixels here, so that a processor can pay for it.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.families.gan import Painter, Told, Verdict, coarser, finer, pyramid, widths

M = TypeVar("M", nn.Conv2d, nn.Linear)
GROUP = 16
"""Channels of a group."""
GAIN = math.sqrt(2.0 / (1.0 + 0.2**2))
"""What keeps the variance of features behind a LeakyReLU of .2."""


class Block(nn.Module):
    """``x + W₃·a(W₂*a(W₁·x))``, W₂ grouped. W₃ begins at zero, W₁ and W₂ are smaller the more branches there are in all."""

    def __init__(self, width: int, branches: int) -> None:
        super().__init__()
        inner = 2 * width
        self.first = nn.Conv2d(width, inner, 1)
        self.middle = nn.Conv2d(inner, inner, 3, padding=1, groups=inner // math.gcd(inner, GROUP), bias=False)
        self.last = nn.Conv2d(inner, width, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(inner, 1, 1))
        for part in (self.first, self.middle):
            scaled(part, GAIN * branches**-0.25)
        nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.first(x), 0.2)
        return x + self.last(F.leaky_relu(self.middle(h) + self.bias, 0.2))


class Generator(Painter):
    """A learned grid whose channels z weighs, through blocks and doublings up to squares of pixels.

    Args:
        shape: (C, H, W) of the pictures.
        dims: numbers of z.
        classes: 0 for none.
        width: channels of the finest grid.
        depth: blocks of each grid.
        patch: side of the square of pixels that is a place of the finest grid.
    """

    def __init__(self, shape: tuple[int, ...], dims: int, classes: int, width: int, depth: int, patch: int) -> None:
        super().__init__()
        halvings, grid = pyramid(shape, patch)
        self.dims, self.patch, wide = dims, patch, widths(width, halvings)[::-1]
        self.told = Told(dims, classes)
        self.basis = nn.Parameter(torch.randn(wide[0], *grid))
        self.weigh = scaled(nn.Linear(self.told.size, wide[0], bias=False), 1.0)
        branches = depth * len(wide)
        self.stages = nn.ModuleList(nn.Sequential(*(Block(w, branches) for _ in range(depth))) for w in wide)
        self.narrow = nn.ModuleList(scaled(nn.Conv2d(a, b, 1, bias=False), 1.0) for a, b in pairwise(wide))
        self.out = scaled(nn.Conv2d(wide[-1], shape[0] * patch * patch, 1), 1.0)

    def paint(self, codes: Tensor, label: Tensor | None, noise: Tensor) -> Tensor:
        x = self.basis * self.weigh(self.told(codes, label))[:, :, None, None]
        for level, stage in enumerate(self.stages):
            x = stage(finer(self.narrow[level - 1](x)) if level else x)
        return F.pixel_shuffle(self.out(x), self.patch)


class Critic(nn.Module):
    """The mirror image; each channel of the coarsest grid is weighed into one number."""

    def __init__(self, shape: tuple[int, ...], classes: int, width: int, depth: int, patch: int) -> None:
        super().__init__()
        halvings, grid = pyramid(shape, patch)
        self.patch, wide = patch, widths(width, halvings)
        branches = depth * len(wide)
        self.first = scaled(nn.Conv2d(shape[0] * patch * patch, wide[0], 1), 1.0)
        self.stages = nn.ModuleList(nn.Sequential(*(Block(w, branches) for _ in range(depth))) for w in wide)
        self.widen = nn.ModuleList(scaled(nn.Conv2d(a, b, 1, bias=False), 1.0) for a, b in pairwise(wide))
        self.basis = nn.Parameter(torch.randn(wide[-1], *grid) / math.sqrt(math.prod(grid)))
        self.verdict = Verdict(wide[-1], classes)

    def forward(self, x: Tensor, label: Tensor | None) -> Tensor:
        x = self.first(F.pixel_unshuffle(x, self.patch))
        for level, stage in enumerate(self.stages):
            x = stage(self.widen[level - 1](coarser(x)) if level else x)
        return self.verdict((x * self.basis).sum((2, 3)), label)


def scaled(part: M, gain: float) -> M:
    """The module with weights of variance ``gain²/fan_in`` and no bias."""
    nn.init.normal_(part.weight, 0.0, gain / math.sqrt(part.weight[0].numel()))
    if part.bias is not None:
        nn.init.zeros_(part.bias)
    return part
