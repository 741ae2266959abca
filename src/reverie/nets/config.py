"""The choices that make a network, as plain dataclasses without torch: the command line builds its flags from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """Diffusion transformer with adaLN-Zero (Peebles & Xie 2023).

    Attributes:
        patch: side of a square patch in pixels; height and width must be multiples of it.
        width: features per token, a multiple of ``heads``, of 4 for the position code.
        depth: number of transformer blocks.
        heads: attention heads per block.
        activation: of the perceptrons; the tanh GELU is the paper's, on a CPU ReLU costs a fifth of it.
        local: a 3x3 depthwise convolution over the tokens before each attention, which tells them their neighbours
            (Chu et al. 2023, conditional positional encoding); it starts at zero.
    """

    patch: int = 4
    width: int = 128
    depth: int = 6
    heads: int = 4
    activation: Literal["gelu", "relu"] = "gelu"
    local: bool = False


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """Convolutional U-Net with residual blocks and attention (Ho et al. 2020; Dhariwal & Nichol 2021).

    Attributes:
        width: channels at full resolution.
        multipliers: channels of each level in units of ``width``; each level after the first halves height and width.
        patch: side of a square of pixels that the first layer folds into channels and the last unfolds; with 2 the whole
            network works at half the resolution, for a quarter of the cost (Hoogeboom et al. 2023).
        blocks: residual blocks per level (one more on the way up).
        attention: down-sampling factors (1, 2, 4, ...), counted after the folding, of the levels with self-attention.
        heads: attention heads.
    """

    width: int = 32
    multipliers: tuple[int, ...] = (1, 2, 4)
    blocks: int = 2
    attention: tuple[int, ...] = (4,)
    patch: int = 1
    heads: int = 4


NetConfig = DiTConfig | UNetConfig

CONFIGS: dict[str, type[DiTConfig] | type[UNetConfig]] = {"dit": DiTConfig, "unet": UNetConfig}
