"""A convolutional variational auto-encoder (Kingma & Welling 2014): with a perceptual and an adversarial loss, see
:mod:`reverie.spaces.tokenizing`, the KL auto-encoder of latent diffusion (Rombach et al. 2022, section 3.1 and appendix G)."""

import torch
from torch import Tensor

from reverie.spaces.convolutional import ConvAE
from reverie.spaces.latent import divergence


class ConvVAE(ConvAE):
    """Codes N(mean, variance), each level half the size. A code sees its neighbourhood, not its patch only.

    Args:
        kl: weight of the divergence from N(0, I), in units of the squared error of one pixel.
        width: channels of the first level.
    """

    name = "conv-vae"
    heads = 2

    def __init__(self, channels: int, patch: int, dims: int, kl: float = 1e-3, width: int = 32) -> None:
        super().__init__(channels, patch, dims, width)
        self.kl = kl

    @property
    def settings(self) -> dict[str, float | int]:
        return {**super().settings, "kl": self.kl}

    def encode_raw(self, x: Tensor) -> Tensor:
        return self.encoder(x)[:, : self.dims]

    def reconstruct(self, x: Tensor, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        log_variance = log_variance - 4.0  # codes start nearly sharp
        restored = self.decode_raw(mean + torch.exp(0.5 * log_variance) * noise)
        return restored, {"kl": self.kl / x[0].numel() * divergence(mean, log_variance)}
