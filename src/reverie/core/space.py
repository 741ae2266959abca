"""Spaces: between data and what is diffused."""

from typing import Protocol

from torch import Tensor


class Space(Protocol):
    """``encode`` takes data (B, C, H, W) in [−1, 1] to the diffused space, ``decode`` back."""

    def encode(self, x: Tensor) -> Tensor: ...
    def decode(self, z: Tensor) -> Tensor: ...


def data_shape(space: Space, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of one sample of data, for a space whose codes have this ``shape``."""
    return space.picture(shape) if hasattr(space, "picture") else shape  # pyright: ignore[reportAttributeAccessIssue]


class Identity:
    """Diffusion on the data itself."""

    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, z: Tensor) -> Tensor:
        return z
