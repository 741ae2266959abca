"""A convolutional auto-encoder, and the halves that the other convolutional ones are made of (Hinton & Salakhutdinov 2006)."""

import math

from torch import Tensor, nn

from reverie.spaces.latent import Latent


class Residual(nn.Module):
    """Two normalised 3x3 convolutions beside the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*convolution(width, width), *convolution(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def encoder(channels: int, patch: int, width: int, out: int) -> nn.Sequential:
    """Pictures (B, channels, H, W) to (B, out, H/patch, W/patch): each prime factor of ``patch`` is a level that divides the sides by it.

    Args:
        width: channels of the first level, the others have twice as many.
    """
    widths, strides = _levels(patch, width)
    layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 3, padding=1)]
    for stride, outer, inner in zip(strides, widths, widths[1:], strict=False):
        layers += [Residual(outer), nn.Conv2d(outer, inner, stride, stride=stride)]
    return nn.Sequential(*layers, Residual(widths[-1]), *convolution(widths[-1], out))


def decoder(channels: int, patch: int, width: int, dims: int) -> nn.Sequential:
    """The mirror of :func:`encoder`: (B, dims, h, w) to (B, channels, h·patch, w·patch)."""
    widths, strides = _levels(patch, width)
    layers: list[nn.Module] = [nn.Conv2d(dims, widths[-1], 3, padding=1), Residual(widths[-1])]
    for stride, inner, outer in zip(strides[::-1], widths[:0:-1], widths[-2::-1], strict=True):
        layers += [nn.ConvTranspose2d(inner, outer, stride, stride=stride), Residual(outer)]
    return nn.Sequential(*layers, *convolution(widths[0], channels))


class ConvAE(Latent):
    """Codes without noise and without a prior: they fit each picture as closely as they can, and lie where they like.

    Args:
        width: channels of the first level.
    """

    name = "conv-ae"
    heads = 1

    def __init__(self, channels: int, patch: int, dims: int, width: int = 32) -> None:
        super().__init__(channels, patch, dims)
        self.width = width
        self.encoder = encoder(channels, patch, width, self.heads * dims)
        self.decoder = decoder(channels, patch, width, dims)

    @property
    def settings(self) -> dict[str, float | int]:
        return {**super().settings, "width": self.width}

    @property
    def last(self) -> Tensor:
        return self.decoder[-1].weight  # pyright: ignore[reportReturnType]

    def encode_raw(self, x: Tensor) -> Tensor:
        return self.encoder(x)

    def decode_raw(self, code: Tensor) -> Tensor:
        return self.decoder(code)

    def reconstruct(self, x: Tensor, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self.decode_raw(self.encode_raw(x)), {}


def convolution(before: int, after: int) -> list[nn.Module]:
    """Normalised, activated, 3x3."""
    return [nn.GroupNorm(math.gcd(8, before), before), nn.SiLU(), nn.Conv2d(before, after, 3, padding=1)]


def _levels(patch: int, width: int) -> tuple[list[int], list[int]]:
    """The channels of each level, and the strides between them: the prime factors of ``patch``."""
    strides, factor = [], 2
    while patch > 1:
        while patch % factor:
            factor += 1
        strides, patch = [*strides, factor], patch // factor
    return [width, *(2 * width for _ in strides)], strides
