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
        vector: numbers of the condition "vector"; 0 for none.
        image: channels of the condition "image"; 0 for none.
        variance: also predict the variance, in as many channels again (Nichol & Dhariwal 2021).
        endpoint: the sinusoids' last frequency is 1/10000 itself (diffusers' DiT).
    """

    patch: int = 4
    width: int = 128
    depth: int = 6
    heads: int = 4
    activation: Literal["gelu", "relu"] = "gelu"
    local: bool = False
    vector: int = 0
    image: int = 0
    variance: bool = False
    endpoint: bool = False


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """Convolutional U-Net with residual blocks and attention (Ho et al. 2020; Dhariwal & Nichol 2021; Rombach et al. 2022).

    Attributes:
        width: channels at full resolution.
        multipliers: channels of each level in units of ``width``; each level after the first halves height and width.
        patch: side of a square of pixels that the first layer folds into channels and the last unfolds; with 2 the whole
            network works at half the resolution, for a quarter of the cost (Hoogeboom et al. 2023).
        blocks: residual blocks per level (one more on the way up).
        attention: down-sampling factors (1, 2, 4, ...), counted after the folding, of the levels with attention.
        heads: attention heads.
        head_width: features of a head, in place of ``heads``; 0 for the number of heads.
        scaled: the condition scales and shifts (ADM) or only shifts (DDPM).
        resample: how the resolution changes: a convolution (DDPM), or residual blocks (ADM, DDPM++).
        dropout: in the residual blocks.
        rescale: factor of each residual sum; √½ in DDPM++ and NCSN++.
        attend_last: on the way up only the last block of a level attends (DDPM++, NCSN++).
        project: convolutions in the shortcuts of residual resampling (DDPM++, NCSN++).
        filter: of residual resampling; 1 3 3 1 in NCSN++.
        pyramid: the filtered input joins each level (NCSN++).
        context: features of a token of the condition "text", which makes attention a spatial transformer; 0 for none.
        length: the most tokens that a text has.
        depths: transformer blocks at each level; none given, one each.
        vector: numbers of the condition "vector"; 0 for none.
        image: channels of the condition "image"; 0 for none.
        variance: also predict the variance, in as many channels again (Nichol & Dhariwal 2021).
        time_scale: what multiplies the time before its sinusoids.
        endpoint: the sinusoids' last frequency is 1/10000 itself (DDPM).
        fourier: standard deviation of random frequencies in place of sinusoids (NCSN++).
        frequencies: sinusoids of the time in units of ``width``.
        corner: strided convolutions are padded at the right and below only (DDPM).
        groups: of the normalisations; with as many as channels a shift alone would be normalised away.
        eps: of the normalisations.
    """

    width: int = 32
    multipliers: tuple[int, ...] = (1, 2, 4)
    blocks: int = 2
    attention: tuple[int, ...] = (4,)
    patch: int = 1
    heads: int = 4
    head_width: int = 0
    scaled: bool = True
    resample: Literal["conv", "residual"] = "conv"
    dropout: float = 0.0
    rescale: float = 1.0
    attend_last: bool = False
    project: bool = False
    filter: tuple[int, ...] = (1, 1)
    pyramid: bool = False
    context: int = 0
    length: int = 77
    depths: tuple[int, ...] = ()
    vector: int = 0
    image: int = 0
    variance: bool = False
    time_scale: float = 1000.0
    endpoint: bool = False
    fourier: float | None = None
    frequencies: int = 1
    corner: bool = False
    groups: int = 32
    eps: float = 1e-6


@dataclass(frozen=True, kw_only=True)
class UViTConfig:
    """Vision transformer with long skip connections (Bao et al. 2023).

    Attributes:
        patch: side of a square patch in pixels; height and width must be multiples of it.
        width: features per token, a multiple of ``heads``.
        depth: number of transformer blocks, odd.
        heads: attention heads per block.
        context: features of a token of the condition "text"; 0 for none.
        length: the most tokens that a text has.
        smooth: a 3x3 convolution at the end.
    """

    patch: int = 4
    width: int = 128
    depth: int = 7
    heads: int = 4
    context: int = 0
    length: int = 77
    smooth: bool = True


@dataclass(frozen=True, kw_only=True)
class MMDiTConfig:
    """Two streams of tokens, picture and text, with joint attention (Esser et al. 2024).

    Attributes:
        patch: side of a square patch in pixels; height and width must be multiples of it.
        width: features per token, a multiple of ``heads``, of 4 for the position code.
        depth: number of blocks.
        heads: attention heads per block.
        context: features of a token of the condition "text".
        length: the most tokens that a text has.
        vector: numbers of the condition "vector", the pooled text; 0 for none.
        norm: normalise q and k.
        reach: rows and columns of patches that the position code knows.
    """

    patch: int = 2
    width: int = 128
    depth: int = 6
    heads: int = 4
    context: int = 64
    length: int = 77
    vector: int = 0
    norm: bool = True
    reach: int = 64


@dataclass(frozen=True, kw_only=True)
class JiTConfig:
    """Plain transformer on large patches of pixels, for predicting x0 (Li & He 2025).

    Attributes:
        patch: side of a square patch in pixels; height and width must be multiples of it.
        width: features per token, a multiple of ``heads``, of 4 for the position code.
        depth: number of blocks.
        heads: attention heads per block.
        bottleneck: features of a patch on its way in.
        told: tokens of the class that join the sequence.
        told_from: the block before which they join.
    """

    patch: int = 4
    width: int = 128
    depth: int = 6
    heads: int = 4
    bottleneck: int = 32
    told: int = 4
    told_from: int = 2


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """The descending half of a U-Net with an attention pool: a classifier of noisy pictures (Dhariwal & Nichol 2021).

    Attributes:
        width: channels at full resolution.
        multipliers: channels of each level in units of ``width``; each level after the first halves height and width.
        blocks: residual blocks per level.
        attention: down-sampling factors of the levels with self-attention.
        heads: attention heads.
    """

    width: int = 32
    multipliers: tuple[int, ...] = (1, 2, 4)
    blocks: int = 1
    attention: tuple[int, ...] = (4,)
    heads: int = 4


NetConfig = DiTConfig | UNetConfig | UViTConfig | MMDiTConfig | JiTConfig
"""The networks of denoisers."""
CONFIGS: dict[str, type[NetConfig]] = {
    "dit": DiTConfig,
    "unet": UNetConfig,
    "uvit": UViTConfig,
    "mmdit": MMDiTConfig,
    "jit": JiTConfig,
}
"""The same by name."""
