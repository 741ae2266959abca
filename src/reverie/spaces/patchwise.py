"""A linear auto-encoder of each patch, plain and variational: ``‖x − Uz‖²`` with z = Vx.

Chen et al. 2024 (arXiv:2401.14404), section 4.2, equations 3 and 4: V and U are matrices, so the plain one finds the same plane as
principal components (Baldi & Hornik 1989) in a basis that is not orthonormal.
"""

import torch
from torch import Tensor, nn

from reverie.spaces.latent import Latent, cut, divergence, paste


class PatchAE(Latent):
    """``V: D → dims`` and ``U: dims → D``, each with an offset, trained on the squared error."""

    name = "patch-ae"

    def __init__(self, channels: int, patch: int, dims: int) -> None:
        super().__init__(channels, patch, dims)
        self.encoder = nn.Conv2d(self.full, dims, 1)
        self.decoder = nn.Conv2d(dims, self.full, 1)

    @property
    def last(self) -> Tensor:
        return self.decoder.weight

    def encode_raw(self, x: Tensor) -> Tensor:
        return self.encoder(cut(x, self.patch))

    def decode_raw(self, code: Tensor) -> Tensor:
        return paste(self.decoder(code), self.patch)

    def reconstruct(self, x: Tensor, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self.decode_raw(self.encode_raw(x)), {}


class PatchVAE(PatchAE):
    """The same with a Gaussian code: its mean is Vx, its log variance another linear map of x.

    Args:
        kl: weight of the divergence from N(0, I), in units of the squared error of one pixel.
    """

    name = "patch-vae"

    def __init__(self, channels: int, patch: int, dims: int, kl: float = 1e-3) -> None:
        super().__init__(channels, patch, dims)
        self.kl = kl
        self.log_variance = nn.Conv2d(self.full, dims, 1)
        nn.init.constant_(self.log_variance.bias, -4.0)  # pyright: ignore[reportArgumentType]

    @property
    def settings(self) -> dict[str, float | int]:
        return {**super().settings, "kl": self.kl}

    def reconstruct(self, x: Tensor, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        mean, log_variance = self.encode_raw(x), self.log_variance(cut(x, self.patch))
        restored = self.decode_raw(mean + torch.exp(0.5 * log_variance) * noise)
        return restored, {"kl": self.kl / x[0].numel() * divergence(mean, log_variance)}
