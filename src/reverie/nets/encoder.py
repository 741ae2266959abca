"""Encoder: the descending half of a U-Net and an attention pool, from noisy pictures to one vector each.

Dhariwal & Nichol, "Diffusion Models Beat GANs on Image Synthesis", NeurIPS 2021 (section 4: the classifier); the pool is
that of Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reverie.nets.attention import Attention
from reverie.nets.config import EncoderConfig
from reverie.nets.embeddings import Conditioning, TimeEmbedding
from reverie.nets.layers import check_picture, check_size, group_norm, pair
from reverie.nets.resample import Down
from reverie.nets.unet import ResidualBlock, SpatialAttention, Stage


class AttentionPool(nn.Module):
    """A feature map ``(B, C, H, W)`` as one vector ``(B, C)``: what the mean of its places sees when it looks at all of them."""

    def __init__(self, channels: int, places: int, heads: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(places + 1, channels) * channels**-0.5)
        self.attention = Attention(channels, heads)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], dim=1) + self.positions
        return self.attention(tokens)[:, 0]


class Encoder(nn.Module):
    """Noise-aware encoder of pictures.

    Args:
        config: its options.
        channels: channels of the picture.
        size: height and width in pixels (one number if square), multiples of 2 ** (levels - 1).
        classes: how many it tells apart.

    Raises:
        InputError: if the down-sampling does not divide the size, or the heads the channels.
    """

    def __init__(self, config: EncoderConfig, *, channels: int, size: int | tuple[int, int], classes: int) -> None:
        super().__init__()
        width, heads = config.width, config.heads
        self.size, self.channels, self.multiple = pair(size), channels, 2 ** (len(config.multipliers) - 1)
        check_size(self.size, self.multiple)
        condition = 4 * width
        self.conditioning = Conditioning(TimeEmbedding(width, condition))
        self.embed = nn.Conv2d(channels, width, 3, padding=1)
        self.down, at = nn.ModuleList(), width
        for level, multiplier in enumerate(config.multipliers):
            if level:
                self.down.append(Down(at))
            for _ in range(config.blocks):
                here = width * multiplier
                attends = SpatialAttention(here, heads, 1.0, 1e-6, 32) if 2**level in config.attention else None
                self.down.append(Stage(ResidualBlock(at, here, condition), attends))
                at = here
        self.norm = nn.Sequential(group_norm(at), nn.SiLU())
        self.pool = AttentionPool(at, (self.size[0] // self.multiple) * (self.size[1] // self.multiple), heads)
        self.out = nn.Linear(at, classes)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """``(B, channels, H, W)`` and a time of order 1, () or (B,) -> logits ``(B, classes)``."""
        return self.out(self.pool(self.places(x, time)))

    def places(self, x: Tensor, time: Tensor) -> Tensor:
        """What is seen in each place of the coarsest level, (B, C, h, w), before it is pooled."""
        check_picture(x, self.channels, self.multiple, self.size)
        condition = self.conditioning(time, None, x.shape[0])
        x = self.embed(x)
        for block in self.down:
            x = block(x, condition)
        return self.norm(x)
