"""In which order a picture becomes a sequence of whole numbers, and back."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from reverie.core.errors import InputError


@dataclass(frozen=True)
class Layout:
    """Sub-pixels one after the other: square tiles in raster order, in each its pixels in raster order, of each its channels.

    Level k = 0 … levels−1 stands for the numbers from 2k/levels − 1 to 2(k + 1)/levels − 1, so that 8-bit pictures and dequantised ones
    both fall on their own level, and is drawn as 2k/(levels − 1) − 1.

    Args:
        shape: (C, H, W) of a picture.
        levels: of a sub-pixel.
        patch: side of a tile in pixels; 1 is the raster order of pixels.

    Raises:
        InputError: when tiles do not fill the picture.
    """

    shape: tuple[int, int, int]
    levels: int
    patch: int = 1

    def __post_init__(self) -> None:
        _, height, width = self.shape
        if height % self.patch or width % self.patch:
            raise InputError(
                f"tiles of {self.patch}x{self.patch} pixels do not fill pictures of {height}x{width}: "
                "choose a patch that divides both sides"
            )

    @property
    def length(self) -> int:
        """Sub-pixels in all."""
        return math.prod(self.shape)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tiles."""
        return self.shape[1] // self.patch, self.shape[2] // self.patch

    @property
    def values(self) -> int:
        """Sub-pixels of a tile."""
        return self.shape[0] * self.patch**2

    def tokens(self, x: Tensor) -> Tensor:
        """Pictures (B, C, H, W) in [−1, 1] as levels (B, length), int64."""
        levels = ((x + 1.0) * (0.5 * self.levels)).long().clamp(0, self.levels - 1)
        (rows, columns), p = self.grid, self.patch
        tiles = levels.reshape(len(x), self.shape[0], rows, p, columns, p)
        return tiles.permute(0, 2, 4, 3, 5, 1).reshape(len(x), self.length)

    def levels_of(self, tokens: Tensor) -> Tensor:
        """Levels (B, length) at their places, (B, C, H, W)."""
        (rows, columns), p = self.grid, self.patch
        tiles = tokens.reshape(len(tokens), rows, columns, p, p, self.shape[0])
        return tiles.permute(0, 5, 1, 3, 2, 4).reshape(len(tokens), *self.shape)

    def picture(self, tokens: Tensor) -> Tensor:
        """Levels (B, length) as pictures (B, C, H, W) in [−1, 1], float32."""
        return value(self.levels_of(tokens), self.levels, torch.float32)


def value(level: Tensor, levels: int, dtype: torch.dtype) -> Tensor:
    """Level k = 0 … levels−1 as the number 2k/(levels − 1) − 1."""
    return level.to(dtype) * (2.0 / (levels - 1)) - 1.0
