"""The choices that make a network, as plain dataclasses without torch: the command line builds its flags from them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, Self

from reverie.core.bounds import Bound

Width = Annotated[int, Bound(ge=1, le=65_536)]
Width0 = Annotated[int, Bound(ge=0, le=65_536)]
Depth = Annotated[int, Bound(ge=1, le=1_000)]
Positive = Annotated[float, Bound(gt=0)]


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
        context: features of a token of the condition "text", to which each block attends after the picture (Chen et al. 2024, PixArt-α); 0
            for none.
        length: the most tokens that a text has.
        learn_sigma: also predict the variance, in as many channels again (Nichol & Dhariwal 2021).
        endpoint: the sinusoids' last frequency is 1/10000 itself, as in diffusers' DiT; off, one before it, as in the paper's code.
        mlp_eps: of the normalisations before the perceptrons.
    """

    patch: Width = 4
    width: Width = 128
    depth: Depth = 6
    heads: Width = 4
    activation: Literal["gelu", "relu"] = "gelu"
    local: bool = False
    vector: Width0 = 0
    image: Width0 = 0
    context: Width0 = 0
    length: Width = 77
    learn_sigma: bool = False
    endpoint: bool = True
    mlp_eps: Positive = 1e-6


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
        scale_shift_norm: the condition scales and shifts (ADM) or only shifts (DDPM).
        resample: how the resolution changes: a convolution (DDPM), or residual blocks (ADM, DDPM++).
        dropout: in the residual blocks.
        skip_scale: factor of each residual sum; √½ in DDPM++ and NCSN++.
        attend_last: on the way up only the last block of a level attends (DDPM++, NCSN++).
        resample_proj: convolutions in the shortcuts of residual resampling (DDPM++, NCSN++).
        resample_filter: of residual resampling; 1 3 3 1 in NCSN++.
        pyramid: the filtered input joins each level (NCSN++).
        context: features of a token of the condition "text", which makes attention a spatial transformer; 0 for none.
        length: the most tokens that a text has.
        transformer_depth: transformer blocks at each level; none given, one each.
        vector: numbers of the condition "vector"; 0 for none.
        image: channels of the condition "image"; 0 for none.
        learn_sigma: also predict the variance, in as many channels again (Nichol & Dhariwal 2021).
        time_scale: what multiplies the time before its sinusoids.
        endpoint: the sinusoids' last frequency is 1/10000 itself (DDPM).
        fourier: standard deviation of random frequencies in place of sinusoids (NCSN++).
        frequencies: sinusoids of the time in units of ``width``.
        asymmetric_padding: strided convolutions are padded at the right and below only (DDPM).
        groups: of the normalisations; with as many as channels a shift alone would be normalised away.
        eps: of the normalisations.
    """

    width: Width = 32
    multipliers: Annotated[tuple[int, ...], Bound(ge=1, le=1_000)] = (1, 2, 4)
    blocks: Depth = 2
    attention: Annotated[tuple[int, ...], Bound(ge=1, le=65_536)] = (4,)
    patch: Width = 1
    heads: Width = 4
    head_width: Width0 = 0
    scale_shift_norm: bool = True
    resample: Literal["conv", "residual"] = "conv"
    dropout: Annotated[float, Bound(ge=0, lt=1)] = 0.0
    skip_scale: Positive = 1.0
    attend_last: bool = False
    resample_proj: bool = False
    resample_filter: tuple[int, ...] = (1, 1)
    pyramid: bool = False
    context: Width0 = 0
    length: Width = 77
    transformer_depth: Annotated[tuple[int, ...], Bound(ge=1, le=1_000)] = ()
    vector: Width0 = 0
    image: Width0 = 0
    learn_sigma: bool = False
    time_scale: Positive = 1000.0
    endpoint: bool = False
    fourier: Positive | None = None
    frequencies: Width = 1
    asymmetric_padding: bool = False
    groups: Width = 32
    eps: Positive = 1e-6


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
        final_conv: a 3x3 convolution at the end.
    """

    patch: Width = 4
    width: Width = 128
    depth: Depth = 7
    heads: Width = 4
    context: Width0 = 0
    length: Width = 77
    final_conv: bool = True


@dataclass(frozen=True, kw_only=True)
class MMDiTConfig:
    """Two streams of tokens, picture and text, with joint attention (Esser et al. 2024).

    Attributes:
        patch: side of a square patch in pixels; height and width must be multiples of it.
        width: features per token, a multiple of ``heads``, of 4 for the position code.
        depth: number of blocks.
        heads: attention heads per block.
        context: features of a token of the condition "text"; with 0 the second stream is one token, of the time and the class.
        length: the most tokens that a text has.
        vector: numbers of the condition "vector", the pooled text; 0 for none.
        qk_norm: normalise q and k.
        pos_embed_max_size: rows and columns of patches that the position code knows.
    """

    patch: Width = 2
    width: Width = 128
    depth: Depth = 6
    heads: Width = 4
    context: Width0 = 64
    length: Width = 77
    vector: Width0 = 0
    qk_norm: bool = True
    pos_embed_max_size: Annotated[int, Bound(ge=1, le=1_024)] = 64


@dataclass(frozen=True, kw_only=True)
class JiTConfig:
    """Plain transformer on large patches of pixels, for predicting x0 (Li & He 2025).

    Attributes:
        patch: side of a square patch in pixels; height and width must be multiples of it.
        width: features per token, a multiple of ``heads``, of 4 for the position code.
        depth: number of blocks.
        heads: attention heads per block.
        bottleneck: features of a patch on its way in.
        context_tokens: tokens of the class that join the sequence ("in-context class tokens").
        context_start: the block before which they join.
    """

    patch: Width = 4
    width: Width = 128
    depth: Depth = 6
    heads: Width = 4
    bottleneck: Width = 32
    context_tokens: Annotated[int, Bound(ge=0, le=1_000)] = 4
    context_start: Annotated[int, Bound(ge=0, le=1_000)] = 2


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

    width: Width = 32
    multipliers: Annotated[tuple[int, ...], Bound(ge=1, le=1_000)] = (1, 2, 4)
    blocks: Depth = 1
    attention: Annotated[tuple[int, ...], Bound(ge=1, le=65_536)] = (4,)
    heads: Width = 4


BYTES = "bytes"
"""The name of our own text encoder."""


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """How captions are read, for data that has them.

    Attributes:
        encoders: bytes, our own small transformer on the bytes of a text, trained with the network; and folders of text encoders in
            transformers' format (CLIP, T5, MiniLM), which stay as they are. Of several the tokens stand one after the other.
        width: features of a token of our own.
        depth: number of its transformer blocks.
        heads: attention heads per block.
        images: by which our own first learns which caption belongs to which picture, in at most a fifth of a --budget; 0 for
            none.
        drop: of a diffusion model, share of the words of a caption that our own does not hear in training, so that it learns of words
            and not captions by heart.
    """

    encoders: tuple[str, ...] = (BYTES,)
    width: Width = 128
    depth: Depth = 3
    heads: Width = 4
    images: Annotated[int, Bound(ge=0, le=10**12)] = 0
    drop: Annotated[float, Bound(ge=0, le=1)] = 0.0

    def resolved(self) -> Self:
        """The same with the absolute paths of folders."""
        places = tuple(e if e == BYTES else str(Path(e).expanduser().absolute()) for e in self.encoders)
        return replace(self, encoders=places)


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
DEFAULT = "dit"
"""The network of a denoiser that names none."""
