"""The auto-encoder of latent diffusion as a space: Rombach et al., CVPR 2022, section 3.1."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from reverie.core.errors import InputError
from reverie.core.space import Space


class KL(nn.Module, Space):
    """Pictures (B, 3, H, W) in [−1, 1] to the mean of their latents, scaled to unit variance, and back.

    Args:
        model: diffusers' AutoencoderKL.

    Raises:
        InputError: for latents that are normalised a channel at a time, or scaled by nothing.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        for name in ("latents_mean", "latents_std"):
            if getattr(model.config, name, None) is not None:
                raise InputError(f"the auto-encoder has {name}, which has no translation")
        if not model.config.scaling_factor:
            raise InputError(
                f"the auto-encoder has scaling_factor = {model.config.scaling_factor!r}: expected a number"
            )
        self.scale = float(model.config.scaling_factor)
        self.shift = float(getattr(model.config, "shift_factor", None) or 0.0)
        self.offset = self.scale * self.shift

    @property
    def factor(self) -> int:
        """How many pixels a side a place of the latent stands for."""
        return 2 ** (len(self.model.config.block_out_channels) - 1)

    def encode(self, x: Tensor) -> Tensor:
        mean = self.model.encode(x.to(self.model.dtype)).latent_dist.mode().to(x.dtype)
        return (mean - self.shift) * self.scale

    def decode(self, z: Tensor) -> Tensor:
        return self.model.decode((z / self.scale + self.shift).to(self.model.dtype)).sample.to(z.dtype)

    def code_shape(self, data: tuple[int, ...]) -> tuple[int, ...]:
        channels, *sides = data
        if channels != self.model.config.in_channels or len(sides) != 2 or any(side % self.factor for side in sides):
            raise InputError(
                f"this auto-encoder codes pictures of {self.model.config.in_channels} channels whose sides are multiples of "
                f"{self.factor}: got {data}"
            )
        return int(self.model.config.latent_channels), *(side // self.factor for side in sides)

    def data_shape(self, code: tuple[int, ...]) -> tuple[int, ...]:
        return int(self.model.config.out_channels), *(side * self.factor for side in code[1:])
