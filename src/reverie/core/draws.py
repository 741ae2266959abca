"""Random numbers of training as a function of (seed, stream, image): image k of a run always gets the same ones.

The address is hashed to the key of Philox4x64, a counter-based generator (Salmon et al. 2011), and the counter is the image's
position in the run, so any batch size, micro-batch or resume point sees the same bits, drawn in one block for all images of a batch.
"""

import math
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2⁶⁴ divided by the golden ratio."""


class Draws:
    """The random numbers of the images at positions ``start … start + count − 1`` of a run.

    Args:
        seed: of the run.
        start: position of the first image.
        count: number of images.
        turn: of the players of a step, which draw apart from each other.
    """

    def __init__(self, seed: int, start: int, count: int, turn: int = 0) -> None:
        self.seed, self.start, self.count, self.turn = seed, start, count, turn

    def uniform(self, stream: str) -> Tensor:
        """Independent uniforms in (0, 1), float64 of shape (count,)."""
        return self.uniforms(stream, 1)[:, 0]

    def uniforms(self, stream: str, several: int) -> Tensor:
        """So many of them for each image, (count, several)."""
        return _unit(self._words(stream, -(-several // 4))[:, :several])

    def even(self, stream: str) -> Tensor:
        """Uniforms in (0, 1), float64 of shape (count,), that are evenly spread over any run of neighbouring images.

        Image k gets the fraction of (offset + k/φ), φ the golden ratio: the low-discrepancy sequence of Weyl. It does for any
        split into batches what stratifying does for one (Kingma et al. 2021, appendix I.1).
        """
        offset = np.uint64(self._key(stream) % 2**64)
        positions = np.arange(self.start, self.start + self.count, dtype=np.uint64)
        return _unit(offset + positions * GOLDEN)

    def normal(self, stream: str, shape: Sequence[int]) -> Tensor:
        """Independent standard normals, float32 of shape ``(count, *shape)``: Box-Muller on 23-bit uniforms, so at most 5.8 in size."""
        n = math.prod(shape)
        bits = self._words(stream, -(-n // 8)).view("<u4").reshape(self.count, 2, -1) >> np.uint32(9)
        uniform = torch.from_numpy(bits.astype(np.float32)).add_(0.5).mul_(2.0**-23)
        radius, angle = uniform[:, 0].log().mul_(-2.0).sqrt_(), uniform[:, 1] * (2.0 * math.pi)
        pairs = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)
        return pairs.reshape(self.count, -1)[:, :n].reshape(self.count, *shape)

    def key(self, stream: str) -> int:
        """A seed for another generator, 64 bits, of which each half serves alone."""
        address = f"train/{self.seed}/{stream}/{self.start}"
        return int.from_bytes(blake2b(address.encode(), digest_size=8).digest(), "little")

    def _key(self, stream: str) -> int:
        turn = f"/{self.turn}" if self.turn else ""
        return int.from_bytes(blake2b(f"train/{self.seed}/{stream}{turn}".encode(), digest_size=16).digest(), "little")

    def _words(self, stream: str, blocks: int) -> np.ndarray:
        """``blocks`` counts of the generator an image, (count, 4·blocks) uint64."""
        words = np.random.Philox(key=self._key(stream), counter=self.start * blocks).random_raw(4 * blocks * self.count)
        return np.asarray(words, dtype="<u8").reshape(self.count, 4 * blocks)


def _unit(words: np.ndarray) -> Tensor:
    return torch.from_numpy(((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53)
