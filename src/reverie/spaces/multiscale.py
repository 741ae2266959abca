"""A picture as tokens of growing scales, each of what the coarser ones left over (Tian et al. 2024, VAR, section 3.2 and algorithms 1, 2).

``r_k = f − f̂_{k−1}`` is averaged to the sides of scale k and replaced by codes, all from one codebook; enlarged and smoothed by a
convolution, these are added: ``f̂_k = f̂_{k−1} + φ(↑ e_k)``. The codes of the first scales alone decode to a picture too, a blurred one.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.spaces.vq import COMMITMENT, VQ

SMOOTHED = 0.5
"""Share of the convolution in what a scale adds; the rest is the enlarged codes as they are."""


class MultiScaleVQ(VQ):
    """As :class:`~reverie.spaces.vq.VQ`, with the tokens of all :meth:`scales`, the coarsest first, each row by row.

    Args:
        codes: how many there are, for all scales.
        width: channels of the first level.
    """

    name = "multiscale-vq"

    def __init__(self, channels: int, patch: int, dims: int, codes: int = 256, width: int = 32) -> None:
        super().__init__(channels, patch, dims, codes, width)
        self.smooth = nn.Conv2d(dims, dims, 3, padding=1)

    @staticmethod
    def scales(height: int, width: int) -> list[tuple[int, int]]:
        """The sides of each scale of codes of (height, width): from 1 to all, twice as many a scale."""
        longest = max(height, width)
        sides = [1]
        while sides[-1] < longest:
            sides.append(min(longest, 2 * sides[-1]))
        return [(-(-height * side // longest), -(-width * side // longest)) for side in sides]

    def token_count(self, data: tuple[int, ...]) -> int:
        return sum(h * w for h, w in self.scales(*self.code_shape(data)[1:]))

    def replaced(self, z: Tensor) -> Tensor:
        return self.layers(z)[-1]

    def layers(self, z: Tensor) -> list[Tensor]:
        """f̂_1 … f̂_K of f = z, each (B, dims, h, w)."""
        total, found = torch.zeros_like(z), []
        for scale in self.scales(*z.shape[2:]):
            total = total + self.enlarged(
                self.codebook(F.interpolate(z - total.detach(), scale, mode="area")), z.shape[2:]
            )
            found.append(total)
        return found

    def enlarged(self, e: Tensor, size: Sequence[int]) -> Tensor:
        """φ(↑ e): the codes (B, dims, h, w) of a scale at another size, (B, dims, H, W)."""
        e = self._cast(F.interpolate(e, tuple(size), mode="bicubic"))
        return (1.0 - SMOOTHED) * e + SMOOTHED * self.smooth(e)

    def reconstruct(self, x: Tensor, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        z = self.encoder(x)
        layers = torch.stack(self.layers(z))
        commitment = COMMITMENT * (z - layers.detach()).square().flatten(2).mean((0, 2))
        closeness = (layers - z.detach()).square().flatten(2).mean((0, 2))  # what the convolution learns from
        return self.decoder(z + (layers[-1] - z).detach()), {"commitment": commitment, "closeness": closeness}

    def tokens(self, x: Tensor) -> Tensor:
        self.code_shape(tuple(x.shape[1:]))
        z = self.encoder(self._cast(x))
        total, found = torch.zeros_like(z), []
        for scale in self.scales(*z.shape[2:]):
            numbers = self.codebook.nearest(F.interpolate(z - total, scale, mode="area"))
            total = total + self.enlarged(self.codebook.vectors(numbers), z.shape[2:])
            found.append(numbers.flatten(1))
        return torch.cat(found, 1)

    def sums(self, tokens: Tensor, data: tuple[int, ...]) -> list[Tensor]:
        """f̂_1 … f̂_k, each (B, dims, h, w), of the tokens (B, …) of the first k scales of pictures of shape ``data``."""
        size = self.code_shape(data)[1:]
        total, found, start = torch.zeros((), device=tokens.device), [], 0
        for h, w in self.scales(*size):
            if start == tokens.shape[1]:
                break
            numbers, start = tokens[:, start : start + h * w].unflatten(1, (h, w)), start + h * w
            total = total + self.enlarged(self.codebook.vectors(numbers), size)
            found.append(total)
        return found

    def from_tokens(self, tokens: Tensor, data: tuple[int, ...]) -> Tensor:
        """Tokens (B, …), of the first scales or all, to pictures of shape ``data``, (B, C, H, W)."""
        return self.decoder(self.sums(tokens, data)[-1])
