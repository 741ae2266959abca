"""StyleGAN: noise becomes a style, and styles say how a learned constant becomes a picture.

Karras, Laine & Aila, "A style-based generator architecture for generative adversarial networks", CVPR 2019: z goes through a mapping
network to a style w, which scales and shifts the normalised features of each layer (adaptive instance normalisation, eq. 1), beside noise
of every place; two styles are mixed from a random layer on (section 3.1), and drawn styles are pulled towards their mean (truncation,
appendix B). Learning rates are equalised as in Karras et al. 2018, by weights of N(0, 1) that are scaled where they are used; so is the
spread of a batch that the critic sees. The critic is that of StyleGAN2, residual; nothing grows while it is trained.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.core.batch import Dataset, DataSpec
from reverie.core.draws import Draws
from reverie.core.tensors import onto
from reverie.families.gan import GAN, Duel, Painter, Verdict, coarser, finer, pyramid, widths

DECAY = 0.995
"""What a step leaves of the mean style."""
GAIN = math.sqrt(2.0)
"""Of an activation."""


def act(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2) * GAIN


class Dense(nn.Module):
    """A linear layer whose weights are N(0, 1) and scaled in use.

    Args:
        into, out: features.
        bias: where its bias begins.
        rate: its learning rate relative to the others'.
    """

    def __init__(self, into: int, out: int, bias: float = 0.0, rate: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out, into) / rate)
        self.bias = nn.Parameter(torch.full((out,), bias / rate))
        self.gain, self.rate = rate / math.sqrt(into), rate

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.gain, self.bias * self.rate)


class Conv(nn.Module):
    """A convolution of odd size that keeps height and width, its weights N(0, 1) and scaled in use."""

    def __init__(self, into: int, out: int, size: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out, into, size, size))
        self.bias = nn.Parameter(torch.zeros(out)) if bias else None
        self.gain = 1.0 / math.sqrt(into * size * size)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.gain, self.bias, padding=self.weight.shape[-1] // 2)


class Mapping(nn.Module):
    """z (B, dims), beside an embedding of the class, becomes a style w (B, dims)."""

    def __init__(self, dims: int, classes: int, depth: int) -> None:
        super().__init__()
        self.classes = nn.Embedding(classes, dims) if classes else None
        sizes = [2 * dims if classes else dims] + [dims] * depth
        self.layers = nn.ModuleList(Dense(a, b, rate=0.01) for a, b in pairwise(sizes))

    def forward(self, z: Tensor, label: Tensor | None) -> Tensor:
        parts = [z] if self.classes is None else [z, self.classes(label)]
        w = torch.cat([part * (part.square().mean(1, keepdim=True) + 1e-8).rsqrt() for part in parts], 1)
        for layer in self.layers:
            w = act(layer(w))
        return w


class Noise(nn.Module):
    """Adds noise (B, H·W) to features (B, C, H, W), by a strength of each channel that begins at 0."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.zeros(width, 1, 1))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        return x + self.strength * noise.reshape(-1, 1, *x.shape[2:])


def adain(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Features (B, C, H, W) normalised over places, then scaled and shifted (B, C): eq. 1."""
    spread, mean = torch.var_mean(x, (2, 3), correction=0, keepdim=True)
    return (x - mean) * (spread + 1e-8).rsqrt() * scale[:, :, None, None] + shift[:, :, None, None]


class Layer(nn.Module):
    """A convolution, doubling the grid first if told to, with noise, activation and a style."""

    def __init__(self, into: int, out: int, dims: int, doubles: bool) -> None:
        super().__init__()
        self.conv, self.doubles = Conv(into, out, 3), doubles
        self.noise, self.style = Noise(out), Dense(dims, 2 * out)

    def forward(self, x: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        h = self.conv(x)
        h = act(self.noise(finer(h) if self.doubles else h, noise))
        scale, shift = self.style(w).chunk(2, dim=1)
        return adain(h, 1.0 + scale, shift)


class Styled(Painter):
    """A mapping network and what paints by styles, one layer after the other.

    Args:
        shape: (C, H, W) of the pictures.
        dims: numbers of z and of w.
        classes: 0 for none.
        width: channels of the finest grid.
        depth: layers of the mapping network.

    Attributes:
        layers: how many styles a picture has, from coarse to fine.
        centre: mean of w by class, (classes or 1, dims).
    """

    straight = True
    centre: Tensor

    def __init__(self, shape: tuple[int, ...], dims: int, classes: int, width: int, depth: int) -> None:
        super().__init__()
        halvings, (height, across) = pyramid(shape)
        self.dims, self.wide = dims, widths(width, halvings)[::-1]
        self.places = [height * across * 4**level for level in range(halvings + 1) for _ in range(2 if level else 1)]
        self.layers, self.noise = len(self.places), sum(self.places)
        self.mapping = Mapping(dims, classes, depth)
        self.register_buffer("centre", torch.zeros(max(1, classes), dims))
        self.constant = nn.Parameter(torch.randn(self.wide[0], height, across))

    def sizes(self) -> list[tuple[int, int, bool]]:
        """(channels in, channels out, whether it doubles the grid) of each layer."""
        pairs = pairwise(self.wide)
        return [
            (self.wide[0], self.wide[0], False),
            *(size for a, b in pairs for size in ((a, b, True), (b, b, False))),
        ]

    def codes(self, z: Tensor, label: Tensor | None) -> Tensor:
        return self.mapping(z, label)

    def styles(self, codes: Tensor, noise: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The style (B, dims) and the noise (B, H·W) of each layer, of codes (B, dims) or (B, layers, dims)."""
        each = codes if codes.ndim == 3 else codes[:, None].expand(-1, self.layers, -1)
        return each.unbind(1), noise.split(self.places, 1)

    def middle(self, label: Tensor | None) -> Tensor:
        """The mean styles of classes (B,), (B or 1, dims)."""
        return self.centre if label is None else self.centre[label]

    @torch.no_grad()
    def follow(self, w: Tensor, label: Tensor | None) -> None:
        """Move the mean styles of the classes of w (B, dims) towards it."""
        rows = torch.zeros(len(w), dtype=torch.int64, device=w.device) if label is None else label
        count = torch.zeros_like(self.centre[:, :1]).index_add_(0, rows, w.new_ones(len(w), 1))
        mean = torch.zeros_like(self.centre).index_add_(0, rows, w.to(self.centre.dtype)) / count.clamp(min=1)
        self.centre.lerp_(mean, (1.0 - DECAY) * (count > 0).to(mean))


class Generator(Styled):
    """The first StyleGAN's way to paint: adaptive instance normalisation, colours at the end."""

    def __init__(self, shape: tuple[int, ...], dims: int, classes: int, width: int, depth: int) -> None:
        super().__init__(shape, dims, classes, width, depth)
        self.steps = nn.ModuleList(Layer(a, b, dims, doubles) for a, b, doubles in self.sizes())
        self.colours = Conv(self.wide[-1], shape[0], 1)

    def paint(self, codes: Tensor, label: Tensor | None, noise: Tensor) -> Tensor:
        x = self.constant.expand(len(codes), -1, -1, -1)
        for step, w, own in zip(self.steps, *self.styles(codes, noise), strict=True):
            x = step(x, w, own)
        return self.colours(x)


class Critic(nn.Module):
    """Residual convolutions down to the coarsest grid, the spread of the batch beside its features (Karras et al. 2018 and 2020)."""

    def __init__(self, shape: tuple[int, ...], classes: int, width: int) -> None:
        super().__init__()
        halvings, grid = pyramid(shape)
        wide = widths(width, halvings)
        self.first = Conv(shape[0], wide[0], 1)
        self.blocks = nn.ModuleList(
            nn.ModuleList([Conv(a, a, 3), Conv(a, b, 3), Conv(a, b, 1, bias=False)]) for a, b in pairwise(wide)
        )
        self.last = Conv(wide[-1] + 1, wide[-1], 3)
        self.dense = Dense(wide[-1] * math.prod(grid), wide[-1])
        self.verdict = Verdict(wide[-1], classes)

    def forward(self, x: Tensor, label: Tensor | None) -> Tensor:
        x = act(self.first(x))
        for narrow, widen, past in self.blocks:  # pyright: ignore[reportGeneralTypeIssues]
            x = (act(widen(coarser(act(narrow(x))))) + past(coarser(x))) / GAIN
        spread = (x.var(0, correction=0) + 1e-8).sqrt().mean().expand(len(x), 1, *x.shape[2:])
        h = act(self.last(torch.cat([x, spread], 1)))
        return self.verdict(act(self.dense(h.flatten(1))), label)


class StyleGAN(GAN):
    """Draws a style and paints by it.

    Args:
        net: what paints by styles.
        critic, spec: as of a :class:`~reverie.families.gan.GAN`.
        truncation: styles come so near to the mean of their class: 1 is as they are, 0 is the mean itself.
    """

    net: Styled

    def __init__(self, net: Styled, critic: nn.Module, spec: DataSpec, truncation: float = 1.0) -> None:
        super().__init__(net, critic, spec)
        self.spec, self.truncation = spec, truncation

    def truncated(self, truncation: float) -> StyleGAN:
        """The same model, drawing with another truncation."""
        return StyleGAN(self.net, self.critic, self.spec, truncation)

    def codes(self, z: Tensor, label: Tensor | None) -> Tensor:
        w = self.net.codes(z, label)
        return torch.lerp(self.net.middle(label).to(w).expand_as(w), w, self.truncation)

    def settings(self) -> dict[str, Any]:
        return {"truncation": self.truncation}


class StyleDuel(Duel):
    """The duel of a generator that paints by styles.

    Args:
        gan, held_out, r1, every: as of a :class:`~reverie.families.gan.Duel`; the loss does not saturate.
        mixing: share of the pictures that are painted by two styles.
    """

    gan: StyleGAN

    def __init__(self, gan: StyleGAN, held_out: Dataset, r1: float, every: int = 1, mixing: float = 0.9) -> None:
        super().__init__(gan, held_out, "non-saturating", r1, every=every)
        self.mixing = mixing

    def codes(self, z: Tensor, label: Tensor | None, rng: Draws) -> Tensor:
        """Styles (B, layers, dims): that of z, from a random layer on that of another z of the same class."""
        net = self.gan.net
        w = net.codes(z, label)
        net.follow(w.detach(), label)
        other = net.codes(onto(rng.normal("other", (net.dims,)), z), label)
        mixed, place = rng.uniform("mixed") < self.mixing, 1.0 + rng.uniform("place") * (net.layers - 1)
        first = torch.where(mixed, place.floor(), net.layers).to(torch.int64).to(z.device)
        mine = torch.arange(net.layers, device=z.device) < first[:, None]
        return torch.where(mine[:, :, None], w[:, None], other[:, None])
