"""DCGAN: strided convolutions with batch normalisation (Radford, Metz & Chintala, "Unsupervised representation learning with deep
convolutional generative adversarial networks", ICLR 2016, section 3).

Up and down by (transposed) convolutions of 4x4 and stride 2, ReLU and tanh in the generator, LeakyReLU of .2 in the critic, no
normalisation where pixels begin or end, weights from N(0, .02²). The statistics of batches serve while training only. A class is told to
the generator as a scale and a shift of what is normalised (Dumoulin, Shlens & Kudlur, "A learned representation for artistic style", ICLR
2017): beside z, which batches then normalise together with it, it soon says all that the picture does, and z nothing.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from reverie.families.gan import Painter, Verdict, pyramid, widths


class Normalise(nn.Module):
    """Batch normalisation of features (B, width, H, W), with a scale and shift of each class (B,) if there are classes."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.batch = nn.BatchNorm2d(width)
        self.classes = nn.Embedding(classes, 2 * width) if classes else None
        if self.classes is not None:
            nn.init.normal_(self.classes.weight, 0.0, 0.5)

    def forward(self, x: Tensor, label: Tensor | None) -> Tensor:
        h = self.batch(x)
        if self.classes is None:
            return h
        scale, shift = self.classes(label)[:, :, None, None].chunk(2, dim=1)
        return h * (1.0 + scale) + shift


class Generator(Painter):
    """z becomes the coarsest grid, which is doubled up to pixels.

    Args:
        shape: (C, H, W) of the pictures.
        dims: numbers of z.
        classes: 0 for none.
        width: channels of the finest grid but pixels.
    """

    def __init__(self, shape: tuple[int, ...], dims: int, classes: int, width: int) -> None:
        super().__init__()
        halvings, self.grid = pyramid(shape)
        self.dims, wide = dims, widths(width, max(halvings - 1, 0))[::-1]
        self.start = nn.Linear(dims, wide[0] * math.prod(self.grid), bias=False)
        self.normalise = nn.ModuleList(Normalise(w, classes) for w in wide)
        last = nn.ConvTranspose2d(wide[-1], shape[0], 4, 2, 1) if halvings else nn.Conv2d(wide[-1], shape[0], 3, 1, 1)
        doubled = [nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False) for before, after in pairwise(wide)]
        self.steps = nn.ModuleList([*doubled, last])
        self.apply(small)

    def paint(self, codes: Tensor, label: Tensor | None, noise: Tensor) -> Tensor:
        x = self.start(codes).unflatten(1, (-1, *self.grid))
        for normalise, step in zip(self.normalise, self.steps, strict=True):
            x = step(torch.relu(normalise(x, label)))
        return x.tanh()


class Critic(nn.Module):
    """The way back: pixels are halved down to the coarsest grid, whose features are judged."""

    def __init__(self, shape: tuple[int, ...], classes: int, width: int) -> None:
        super().__init__()
        halvings, grid = pyramid(shape)
        wide = widths(width, max(halvings - 1, 0))
        first = nn.Conv2d(shape[0], wide[0], 4, 2, 1) if halvings else nn.Conv2d(shape[0], wide[0], 3, 1, 1)
        steps: list[nn.Module] = [first, nn.LeakyReLU(0.2)]
        for before, after in pairwise(wide):
            steps += [nn.Conv2d(before, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after), nn.LeakyReLU(0.2)]
        self.steps = nn.Sequential(*steps)
        self.verdict = Verdict(wide[-1] * math.prod(grid), classes)
        self.apply(small)

    def forward(self, x: Tensor, label: Tensor | None) -> Tensor:
        return self.verdict(self.steps(x).flatten(1), label)


@torch.no_grad()
def small(part: nn.Module) -> None:
    """Weights from N(0, .02²), scales of normalisations from N(1, .02²); embeddings of classes stay as they are."""
    if isinstance(part, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        part.weight.normal_(0.0, 0.02)
    elif isinstance(part, nn.BatchNorm2d):
        part.weight.normal_(1.0, 0.02)
