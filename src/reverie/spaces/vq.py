"""VQ-VAE: every code is one of K (van den Oord, Vinyals & Kavukcuoglu 2017, "Neural discrete representation learning").

``L = ‖x − D(e)‖² + ¼·‖z − sg e‖²`` with z = E(x) and e the code nearest to it (their equation 3; the codes are running means, so that the
middle term is not needed). The gradient of the first term passes from e to z as it is.
"""

import math

from torch import Tensor

from reverie.core.errors import InputError
from reverie.spaces.codebook import Codebook
from reverie.spaces.convolutional import ConvAE

COMMITMENT = 0.25


class VQ(ConvAE):
    """Pictures to numbers of codes, :meth:`tokens`, and back, :meth:`from_tokens`.

    As a space for a denoiser its codes are the vectors before they are replaced, and decoding begins with replacing them (Rombach et al.
    2022, appendix G).

    Args:
        codes: K, how many there are.
        width: channels of the first level.
    """

    name = "vq"

    def __init__(self, channels: int, patch: int, dims: int, codes: int = 256, width: int = 32) -> None:
        super().__init__(channels, patch, dims, width)
        if codes < 2:
            raise InputError(f"a codebook has at least 2 codes: got {codes}")
        self.codes = codes
        self.codebook = Codebook(codes, dims)

    @property
    def settings(self) -> dict[str, float | int]:
        return {**super().settings, "codes": self.codes}

    def decode_raw(self, code: Tensor) -> Tensor:
        return self.decoder(self.replaced(code))

    def replaced(self, z: Tensor) -> Tensor:
        """Vectors (B, dims, h, w) as the codes they become."""
        return self.codebook(z)

    def reconstruct(self, x: Tensor, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        z = self.encoder(x)
        e = self.replaced(z)
        commitment = COMMITMENT * (z - e.detach()).square().flatten(1).mean(1)
        return self.decoder(z + (e - z).detach()), {"commitment": commitment}

    def settle(self, step: int) -> None:
        self.codebook.settle(step)

    def token_count(self, data: tuple[int, ...]) -> int:
        """L, how many tokens a picture of shape (C, H, W) becomes.

        Raises:
            InputError: when the space does not take data of this shape.
        """
        return math.prod(self.code_shape(data)[1:])

    def tokens(self, x: Tensor) -> Tensor:
        """Pictures (B, C, H, W) in [−1, 1] to the numbers of their codes row by row, (B, L) int64.

        Raises:
            InputError: when the pictures do not fit.
        """
        self.code_shape(tuple(x.shape[1:]))
        return self.codebook.nearest(self.encoder(self._cast(x))).flatten(1)

    def from_tokens(self, tokens: Tensor, data: tuple[int, ...]) -> Tensor:
        """Numbers of codes (B, L) to pictures of shape ``data``, (B, C, H, W)."""
        return self.decoder(self._cast(self.codebook.vectors(tokens.unflatten(1, self.code_shape(data)[1:]))))
