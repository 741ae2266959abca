"""A convolutional variational auto-encoder (Kingma & Welling 2014), the tokenizer of latent diffusion without its perceptual and
adversarial losses (Rombach et al. 2022; Chen et al. 2024, section 4.1)."""

import math

import torch
from torch import Tensor, nn

from reverie.core.errors import InputError
from reverie.spaces.latent import Latent, divergence


class Residual(nn.Module):
    """Two normalised 3x3 convolutions beside the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*_convolution(width, width), *_convolution(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class ConvVAE(Latent):
    """Each level halves the sides, from the pixels to the codes; the decoder mirrors it. A code sees its neighbourhood, not its patch only.

    Args:
        kl: weight of the divergence from N(0, I), in units of the squared error of one pixel.
        width: channels of the first level; it doubles once.

    Raises:
        InputError: when ``patch`` is not a power of two.
    """

    name = "conv-vae"

    def __init__(self, channels: int, patch: int, dims: int, kl: float = 1e-3, width: int = 32) -> None:
        super().__init__(channels, patch, dims)
        levels = math.log2(patch)
        if levels % 1.0:
            raise InputError(f"a convolutional space halves the sides some times: patch is a power of two, got {patch}")
        self.kl, self.width = kl, width
        widths = [width if i == 0 else 2 * width for i in range(int(levels) + 1)]
        down: list[nn.Module] = [nn.Conv2d(channels, widths[0], 3, padding=1)]
        up: list[nn.Module] = [nn.Conv2d(dims, widths[-1], 3, padding=1), Residual(widths[-1])]
        for inner, outer in zip(widths[1:], widths, strict=False):
            down += [Residual(outer), nn.Conv2d(outer, inner, 2, stride=2)]
        for inner, outer in zip(widths[:0:-1], widths[-2::-1], strict=True):
            up += [nn.ConvTranspose2d(inner, outer, 2, stride=2), Residual(outer)]
        self.encoder = nn.Sequential(*down, Residual(widths[-1]), *_convolution(widths[-1], 2 * dims))
        self.decoder = nn.Sequential(*up, *_convolution(widths[0], channels))

    @property
    def settings(self) -> dict[str, float | int]:
        return {**super().settings, "kl": self.kl, "width": self.width}

    def encode_raw(self, x: Tensor) -> Tensor:
        return self.encoder(x)[:, : self.dims]

    def decode_raw(self, code: Tensor) -> Tensor:
        return self.decoder(code)

    def reconstruct(self, x: Tensor, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        log_variance = log_variance - 4.0  # codes start nearly sharp
        restored = self.decode_raw(mean + torch.exp(0.5 * log_variance) * noise)
        return restored, {"kl": self.kl / x[0].numel() * divergence(mean, log_variance)}


def _convolution(before: int, after: int) -> list[nn.Module]:
    return [nn.GroupNorm(math.gcd(8, before), before), nn.SiLU(), nn.Conv2d(before, after, 3, padding=1)]
