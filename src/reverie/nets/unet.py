"""U-Net: residual convolutions on a pyramid of resolutions, with attention at the coarse ones.

Ho, Jain & Abbeel, "Denoising Diffusion Probabilistic Models", NeurIPS 2020 (the pyramid, the skip connections), and
Dhariwal & Nichol, "Diffusion Models Beat GANs on Image Synthesis", NeurIPS 2021 (scale-shift conditioning, several
heads). Each residual branch and the last convolution start at zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.core.condition import Label
from reverie.nets.attention import Attention
from reverie.nets.embeddings import Conditioning
from reverie.nets.layers import check_picture, check_size, group_norm, modulate, pair, zeroed

if TYPE_CHECKING:
    from reverie.core.condition import Cond, ConditionSpec


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, ``(B, inputs, H, W)`` -> ``(B, outputs, H, W)``; the condition scales and shifts."""

    def __init__(self, inputs: int, outputs: int, condition: int) -> None:
        super().__init__()
        self.norm_in = group_norm(inputs)
        self.conv_in = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.modulation = nn.Linear(condition, 2 * outputs)
        self.norm_out = group_norm(outputs)
        self.conv_out = zeroed(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        h = self.conv_in(F.silu(self.norm_in(x)))
        scale, shift = self.modulation(condition)[:, :, None, None].chunk(2, dim=1)
        h = self.conv_out(F.silu(modulate(self.norm_out(h), shift, scale)))
        return self.shortcut(x) + h


class AttentionBlock(nn.Module):
    """Self-attention between the places of a feature map ``(B, C, H, W)``, added to it."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.attention = Attention(channels, heads)
        zeroed(self.attention.out)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.attention(self.norm(x).flatten(2).transpose(1, 2))
        return x + tokens.transpose(1, 2).unflatten(2, x.shape[2:])


class Stage(nn.Module):
    """A residual block and, at chosen resolutions, attention."""

    def __init__(self, inputs: int, outputs: int, condition: int, heads: int | None) -> None:
        super().__init__()
        self.residual = ResidualBlock(inputs, outputs, condition)
        self.attention = nn.Identity() if heads is None else AttentionBlock(outputs, heads)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return self.attention(self.residual(x, condition))


class Down(nn.Module):
    """Half the resolution: a 3x3 convolution with stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return self.conv(x)


class Up(nn.Module):
    """Twice the resolution: nearest neighbour, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class UNet(nn.Module):
    """Convolutional U-Net.

    Args:
        channels: channels of the picture.
        size: height and width in pixels (one number if square), multiples of ``patch`` * 2 ** (levels - 1).
        width: channels at full resolution.
        multipliers: channels of each level in units of ``width``.
        blocks: residual blocks per level (one more on the way up).
        attention: down-sampling factors of the levels with self-attention; the middle always has it.
        patch: side of a square of pixels folded into channels on the way in and unfolded on the way out.
        heads: attention heads.
        classes: number of classes, or None for a network without labels.

    Raises:
        InputError: if the down-sampling does not divide the size, or the heads the channels.
    """

    def __init__(
        self,
        *,
        channels: int,
        size: int | tuple[int, int],
        width: int,
        multipliers: tuple[int, ...] = (1, 2, 4),
        blocks: int = 2,
        attention: tuple[int, ...] = (4,),
        patch: int = 1,
        heads: int = 4,
        classes: int | None = None,
    ) -> None:
        super().__init__()
        self.size = pair(size)
        self.channels, self.multiple = channels, patch * 2 ** (len(multipliers) - 1)
        check_size(self.size, self.multiple)
        self.conditions: dict[str, ConditionSpec] = {} if classes is None else {"label": Label(classes=classes)}

        condition = 4 * width
        self.conditioning = Conditioning(width, condition, classes)
        self.fold, self.unfold = nn.PixelUnshuffle(patch), nn.PixelShuffle(patch)
        self.embed = nn.Conv2d(channels * patch**2, width, 3, padding=1)

        at, skips, down = width, [width], []
        for level, multiplier in enumerate(multipliers):
            attends = heads if 2**level in attention else None
            for _ in range(blocks):
                down.append(Stage(at, width * multiplier, condition, attends))
                at = width * multiplier
                skips.append(at)
            if level < len(multipliers) - 1:
                down.append(Down(at))
                skips.append(at)
        self.down = nn.ModuleList(down)

        self.middle = nn.ModuleList([Stage(at, at, condition, heads), Stage(at, at, condition, None)])

        up = []
        for level, multiplier in reversed(list(enumerate(multipliers))):
            attends = heads if 2**level in attention else None
            for _ in range(blocks + 1):
                up.append(Stage(at + skips.pop(), width * multiplier, condition, attends))
                at = width * multiplier
            if level:
                up.append(Up(at))
        self.up = nn.ModuleList(up)

        self.norm = group_norm(width * multipliers[0])
        self.out = zeroed(nn.Conv2d(width * multipliers[0], channels * patch**2, 3, padding=1))

    def forward(self, x: Tensor, time: Tensor, cond: Cond | None = None) -> Tensor:
        """The network's output for noisy pictures.

        Args:
            x: ``(B, channels, H, W)``, of any height and width that the down-sampling divides.
            time: ``()`` or ``(B,)``, a number of order 1.
            cond: labels; None, or absent labels, are the null class.

        Returns:
            ``(B, channels, H, W)``.
        """
        check_picture(x, self.channels, self.multiple)
        condition = self.conditioning(time, cond, x.shape[0])
        x = self.embed(self.fold(x))
        skips = [x]
        for stage in self.down:
            x = stage(x, condition)
            skips.append(x)
        for stage in self.middle:
            x = stage(x, condition)
        for stage in self.up:
            x = stage(x) if isinstance(stage, Up) else stage(torch.cat([x, skips.pop()], dim=1), condition)
        return self.unfold(self.out(F.silu(self.norm(x))))
