"""StyleGAN2: styles scale weights in place of features (Karras et al., "Analyzing and improving the image quality of StyleGAN", CVPR 2020).

A style scales what a convolution reads, and its output is divided by the standard deviation that it then would have (section 2.2).
Pictures are sums of what each grid adds. The critic's slope is penalised every few steps only (R1, lazily), and so is the generator's: a
step in w of a given length is to change the picture by as much, whatever w and the direction (path length, eq. 4).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.core.batch import Dataset
from reverie.core.draws import Draws
from reverie.core.processes import gathered
from reverie.core.task import Moment, Player
from reverie.core.tensors import onto
from reverie.families.augment import Augment
from reverie.families.gan import finer
from reverie.families.stylegan import Dense, Noise, Styled, StyleDuel, StyleGAN, act

PATH_EVERY = 4
"""Steps from one path-length penalty to the next, each so many times as strong."""
PATH_DECAY = 0.99
"""What such a step leaves of the mean length."""


def modulated(x: Tensor, weight: Tensor, style: Tensor, demodulate: bool = True) -> Tensor:
    """A convolution whose weights are scaled by the style of each picture (eq. 1 and 3), as scale, convolve and divide.

    Args:
        x: (B, C, H, W).
        weight: (O, C, k, k), k odd.
        style: (B, C), the scale of each input channel.
        demodulate: divide each output channel by the norm of its scaled weights.

    Returns:
        (B, O, H, W).
    """
    y = F.conv2d(x * style[:, :, None, None], weight, padding=weight.shape[-1] // 2)
    if demodulate:
        y = y * (style.square() @ weight.square().sum((2, 3)).T + 1e-8).rsqrt()[:, :, None, None]
    return y


class Modulated(nn.Module):
    """:func:`modulated` with weights of equalised rate, a style of w and a bias."""

    def __init__(self, into: int, out: int, size: int, dims: int, demodulate: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out, into, size, size))
        self.bias = nn.Parameter(torch.zeros(out, 1, 1))
        self.style = Dense(dims, into, bias=1.0)
        self.gain, self.demodulate = 1.0 / math.sqrt(into * size * size), demodulate

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return modulated(x, self.weight * self.gain, self.style(w), self.demodulate)


class Layer(nn.Module):
    """A modulated convolution, doubling the grid if told to, with noise, bias and activation."""

    def __init__(self, into: int, out: int, dims: int, doubles: bool) -> None:
        super().__init__()
        self.conv, self.noise, self.doubles = Modulated(into, out, 3, dims), Noise(1), doubles

    def forward(self, x: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        h = self.conv(x, w)
        return act(self.noise(finer(h) if self.doubles else h, noise) + self.conv.bias)


class Generator(Styled):
    """The second StyleGAN's way to paint: modulated convolutions, and colours of each grid that add up."""

    def __init__(self, shape: tuple[int, ...], dims: int, classes: int, width: int, depth: int) -> None:
        super().__init__(shape, dims, classes, width, depth)
        self.steps = nn.ModuleList(Layer(a, b, dims, doubles) for a, b, doubles in self.sizes())
        self.colours = nn.ModuleList(Modulated(w, shape[0], 1, dims, demodulate=False) for w in self.wide)

    def paint(self, codes: Tensor, label: Tensor | None, noise: Tensor) -> Tensor:
        x, picture = self.constant.expand(len(codes), -1, -1, -1), None
        for i, (step, w, own) in enumerate(zip(self.steps, *self.styles(codes, noise), strict=True)):
            x = step(x, w, own)
            if i % 2 == 0:
                colour = self.colours[i // 2]
                added = colour(x, w) + colour.bias
                picture = added if picture is None else finer(picture) + added
        assert picture is not None
        return picture


def lengths(picture: Tensor, styles: Tensor, noise: Tensor) -> Tensor:
    """``‖J_wᵀ·y‖`` (B,) of pictures (B, C, H, W) painted of styles (B, layers, dims), y the noise over √(H·W), itself differentiable."""
    along = (picture * noise).sum() / math.sqrt(math.prod(picture.shape[2:]))
    (gradient,) = torch.autograd.grad(along, styles, create_graph=True)
    return gradient.square().sum(2).mean(1).sqrt()


class PathLength(nn.Module):
    """The mean length of :func:`lengths`, which moves, and the squared distance to it."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, length: Tensor) -> Tensor:
        """(B,) of (B,)."""
        now = gathered(length.detach()[:, None]).mean()
        self.mean.lerp_(now.to(self.mean), 1.0 - PATH_DECAY)
        return (length - self.mean).square()


class StyleDuel2(StyleDuel):
    """A :class:`~reverie.families.stylegan.StyleDuel` with path lengths, and pictures that are changed before the critic sees them.

    Args:
        gan, held_out, r1, every, mixing: as there.
        path: weight of the path-length penalty.
        augment: how the critic's pictures are changed; None for not at all.
    """

    def __init__(
        self,
        gan: StyleGAN,
        held_out: Dataset,
        r1: float,
        every: int = 16,
        mixing: float = 0.9,
        path: float = 2.0,
        augment: Augment | None = None,
    ) -> None:
        super().__init__(gan, held_out, r1, every, mixing)
        self.path, self.augment, self.lengths = path, augment, PathLength()
        if path:
            self.players["lengths"] = Player(self.lengths, optim=None, average=False)
        if augment is not None:
            self.players["augment"] = Player(augment, optim=None, average=False)

    def seen(self, x: Tensor, rng: Draws, stream: str) -> Tensor:
        return x if self.augment is None else self.augment(x, rng, stream)

    def rated(self, real: Tensor) -> None:
        if self.augment is not None:
            self.augment.adapt(real)

    def regular(self, codes: Tensor, fake: Tensor, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        if not self.path or progress.step % PATH_EVERY != PATH_EVERY - 1:
            return {}
        noise = onto(rng.normal("path", fake.shape[1:]), fake)
        return {"path": self.path * PATH_EVERY * self.lengths(lengths(fake, codes, noise))}

    def validate(self) -> dict[str, float | list[float]]:
        return {} if self.augment is None else {"augmented": float(self.augment.p)}
