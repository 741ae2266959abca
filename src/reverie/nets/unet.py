"""U-Net: residual convolutions on a pyramid of resolutions, with attention at the coarse ones.

Ho, Jain & Abbeel, "Denoising Diffusion Probabilistic Models", NeurIPS 2020 (the pyramid, the skip connections, the shift
by time); Song et al., "Score-Based Generative Modeling through SDEs", ICLR 2021 (DDPM++ and NCSN++: residual up and down
sampling, rescaled sums, a filtered pyramid of the input); Dhariwal & Nichol, "Diffusion Models Beat GANs on Image
Synthesis", NeurIPS 2021 (ADM: scale and shift, several heads); Rombach et al., CVPR 2022 (attention to a text, see
:mod:`reverie.nets.spatial`). Each residual branch and the last convolution start at zero.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from reverie.nets.attention import Attention
from reverie.nets.config import UNetConfig
from reverie.nets.embeddings import Conditioning, TimeEmbedding
from reverie.nets.layers import channels_last, check_picture, check_size, group_norm, norm_silu, pair, zeroed
from reverie.nets.network import Network, Skip, conditions, tokens, with_image
from reverie.nets.resample import Down, Resample, Up
from reverie.nets.spatial import SpatialTransformer
from reverie.nets.winograd import Conv3x3

if TYPE_CHECKING:
    from reverie.core.condition import Cond


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, ``(B, inputs, H, W)`` -> ``(B, outputs, H, W)``, told by the condition in between.

    Args:
        inputs, outputs: channels.
        condition: features of the condition.
        scale_shift_norm: the condition scales and shifts what the second normalisation gives (ADM), or shifts what it takes (DDPM).
        dropout: before the second convolution.
        skip_scale: factor of the sum; √½ keeps its variance (Song et al. 2021).
        eps, groups: of the normalisations.
        resample: halves or doubles height and width, of the branch and of the shortcut alike.
        project: a 1x1 convolution in the shortcut even where the channels agree.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        condition: int,
        scale_shift_norm: bool = True,
        dropout: float = 0.0,
        skip_scale: float = 1.0,
        eps: float = 1e-6,
        groups: int = 32,
        resample: nn.Module | None = None,
        project: bool = False,
    ) -> None:
        super().__init__()
        self.scale_shift_norm, self.skip_scale = scale_shift_norm, skip_scale
        self.norm_in = group_norm(inputs, eps, groups)
        self.resample = nn.Identity() if resample is None else resample
        self.conv_in = Conv3x3(inputs, outputs)
        self.modulation = nn.Linear(condition, 2 * outputs if scale_shift_norm else outputs)
        self.norm_out = group_norm(outputs, eps, groups)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = zeroed(Conv3x3(outputs, outputs))
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if project or inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        h = self.conv_in(self.resample(norm_silu(self.norm_in, x)))
        modulation = self.modulation(condition)[:, :, None, None]
        if self.scale_shift_norm:
            scale, shift = modulation.chunk(2, dim=1)
            h = norm_silu(self.norm_out, h, shift, scale)
        else:
            h = norm_silu(self.norm_out, h + modulation)
        h = self.conv_out(self.dropout(h))
        return rescaled(self.shortcut(self.resample(x)) + h, self.skip_scale)


def rescaled(x: Tensor, factor: float) -> Tensor:
    return x if factor == 1.0 else factor * x


class SpatialAttention(Attention):
    """Self-attention between the places of a feature map ``(B, C, H, W)``, added to it."""

    def __init__(self, channels: int, heads: int, skip_scale: float, eps: float, groups: int) -> None:
        super().__init__(channels, heads)
        self.skip_scale = skip_scale
        self.norm = group_norm(channels, eps, groups)
        zeroed(self.out)

    def forward(self, x: Tensor) -> Tensor:
        attended = super().forward(self.norm(x).flatten(2).transpose(1, 2))
        return rescaled(x + attended.transpose(1, 2).unflatten(2, x.shape[2:]), self.skip_scale)


class Stage(nn.Module):
    """A residual block and, at chosen resolutions, attention (to ``context``, its tokens and their mask, if there is any)."""

    def __init__(self, residual: ResidualBlock, attention: nn.Module | None = None) -> None:
        super().__init__()
        self.residual = residual
        self.attention = attention

    def forward(self, x: Tensor, condition: Tensor, *context: Tensor | None) -> Tensor:
        x = self.residual(x, condition)
        return x if self.attention is None else self.attention(x, *context)


class UNet(Network):
    """Convolutional U-Net.

    Args:
        config: its options.
        channels: channels of the picture.
        size: height and width in pixels (one number if square), multiples of ``patch`` * 2 ** (levels - 1).
        classes: number of classes, or None for a network without labels.

    Raises:
        InputError: if the down-sampling does not divide the size, or the heads the channels.
    """

    def __init__(
        self, config: UNetConfig, *, channels: int, size: int | tuple[int, int], classes: int | None = None
    ) -> None:
        super().__init__()
        width, multipliers, blocks, context = config.width, config.multipliers, config.blocks, config.context
        self.config, self.channels, self.size = config, channels, pair(size)
        self.multiple = config.patch * 2 ** (len(multipliers) - 1)
        self.context, self.image, self.skip_scale = context, config.image, config.skip_scale
        check_size(self.size, self.multiple)
        self.conditions = conditions(classes, config.vector, context, config.length, config.image)

        condition = 4 * width
        time = TimeEmbedding(config.frequencies * width, condition, config.time_scale, config.endpoint, config.fourier)
        self.conditioning = Conditioning(time, classes, config.vector)
        self.fold, self.unfold = nn.PixelUnshuffle(config.patch), nn.PixelShuffle(config.patch)
        folded = (channels + config.image) * config.patch**2
        self.embed = Conv3x3(folded, width)

        residual = partial(
            ResidualBlock,
            condition=condition,
            scale_shift_norm=config.scale_shift_norm,
            dropout=config.dropout,
            skip_scale=config.skip_scale,
            eps=config.eps,
            groups=config.groups,
        )

        depths = config.transformer_depth or (1,) * len(multipliers)

        def attends(level: int, here: int) -> nn.Module:
            n = here // config.head_width if config.head_width else config.heads
            if context:
                return SpatialTransformer(here, n, context, depths[level], config.groups)
            return SpatialAttention(here, n, config.skip_scale, config.eps, config.groups)

        def stage(inputs: int, outputs: int, level: int, attend: bool) -> Stage:
            return Stage(residual(inputs, outputs), attends(level, outputs) if attend else None)

        def resampled(here: int, up: bool) -> nn.Module:
            if config.resample == "residual":
                return residual(here, here, resample=Resample(up, config.resample_filter), project=config.resample_proj)
            return Up(here) if up else Down(here, config.asymmetric_padding)

        at, skips, self.down, self.pyramid = width, [width], nn.ModuleList(), nn.ModuleList()
        auxiliary = folded
        for level, multiplier in enumerate(multipliers):
            here = nn.ModuleList()
            if level:
                here.append(resampled(at, up=False))
                skips.append(at)
                if config.pyramid:
                    conv = nn.Conv2d(auxiliary, at, 3, padding=1 + (len(config.resample_filter) - 1) // 2)
                    self.pyramid.append(nn.Sequential(conv, Resample(False, config.resample_filter, padded=False)))
                    auxiliary = at
            for _ in range(blocks):
                here.append(stage(at, width * multiplier, level, 2**level in config.attention))
                at = width * multiplier
                skips.append(at)
            self.down.append(here)
        self.skip = nn.ModuleList(Skip() for _ in skips)

        bottom = len(multipliers) - 1
        self.middle = nn.ModuleList([stage(at, at, bottom, True), stage(at, at, bottom, False)])

        self.up = nn.ModuleList()
        for level, multiplier in reversed(list(enumerate(multipliers))):
            here = nn.ModuleList()
            for block in range(blocks + 1):
                attend = 2**level in config.attention and (block == blocks or not config.attend_last)
                here.append(stage(at + skips.pop(), width * multiplier, level, attend))
                at = width * multiplier
            if level:
                here.append(resampled(at, up=True))
            self.up.append(here)

        self.norm = group_norm(at, config.eps, config.groups)
        self.out = zeroed(nn.Conv2d(at, (2 if config.learn_sigma else 1) * channels * config.patch**2, 3, padding=1))

    def forward(self, x: Tensor, time: Tensor, cond: Cond | None = None) -> Tensor:
        """The network's output for noisy pictures.

        Args:
            x: ``(B, channels, H, W)``, of any height and width that the down-sampling divides.
            time: ``()`` or ``(B,)``, a number of order 1.
            cond: the conditions; one that is absent is its null.

        Returns:
            ``(B, channels, H, W)``, or twice the channels with a variance.
        """
        check_picture(x, self.channels, self.multiple)
        condition = self.conditioning(time, cond, x.shape[0])
        context = tokens(cond, self.context, x)[:2] if self.context else ()
        auxiliary = channels_last(self.fold(with_image(x, cond, self.image)))
        x = self.embed(auxiliary)
        skips = [self.skip[0](x)]
        for level, stages in enumerate(self.down):
            for i, block in enumerate(stages):  # pyright: ignore[reportArgumentType]
                x = self.through(block, x, condition, *(context if isinstance(block, Stage) else ()))
                if level and i == 0 and self.pyramid:
                    auxiliary = x = rescaled(x + self.pyramid[level - 1](auxiliary), self.skip_scale)
                skips.append(self.skip[len(skips)](x))
        for block in self.middle:
            x = self.through(block, x, condition, *context)
        for stages in self.up:
            for block in stages:  # pyright: ignore[reportGeneralTypeIssues]
                if isinstance(block, Stage):
                    x = self.through(block, torch.cat([x, skips.pop()], dim=1), condition, *context)
                else:
                    x = self.through(block, x, condition)
        return self.unfold(self.out(norm_silu(self.norm, x)))
