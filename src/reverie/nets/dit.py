"""DiT: a diffusion transformer on patches, conditioned by adaptive layer norm.

Peebles & Xie, "Scalable Diffusion Models with Transformers", ICCV 2023. A block normalises its tokens, scales and
shifts them by numbers computed from time and class, and gates what it adds (adaLN-Zero). Those numbers start at zero:
every block starts as the identity, the network as the constant 0. To a text each block attends in between, ungated (Chen et
al., "PixArt-α", ICLR 2024, figure 4); that too starts at zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from reverie.nets.attention import Attention
from reverie.nets.config import DiTConfig
from reverie.nets.embeddings import Conditioning, TimeEmbedding, grid_positions
from reverie.nets.layers import (
    FeedForward,
    check_picture,
    check_size,
    norm_modulate,
    normalised,
    pair,
    plain_norm,
    to_tokens,
    unpatch,
    zeroed,
)
from reverie.nets.network import Network, conditions, with_image
from reverie.nets.network import tokens as told

if TYPE_CHECKING:
    from reverie.core.condition import Cond


class Block(nn.Module):
    """Attention and a perceptron on tokens ``(B, N, width)``, modulated and gated by ``(B, width)`` (figure 3).

    If ``local``, a depthwise convolution over the ``grid`` of tokens comes first. With a ``context``, the tokens of a text and their mask,
    they attend to it in between.
    """

    def __init__(self, config: DiTConfig, grid: tuple[int, int]) -> None:
        super().__init__()
        width = config.width
        self.grid = grid
        self.local = zeroed(nn.Conv2d(width, width, 3, padding=1, groups=width)) if config.local else None
        self.norm_attention = plain_norm(width)
        self.attention = Attention(width, config.heads)
        self.norm_cross = plain_norm(width) if config.context else None
        self.cross = Attention(width, config.heads, context=config.context) if config.context else None
        if self.cross is not None:
            zeroed(self.cross.out)
        self.norm_mlp = plain_norm(width, config.mlp_eps)
        self.mlp = FeedForward(width, 4 * width, config.activation)
        self.modulation = zeroed(nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, condition: Tensor, *context: Tensor | None) -> Tensor:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(condition)[:, None].chunk(6, dim=-1)
        if self.local is not None:
            x = x + self.local(x.transpose(1, 2).unflatten(2, self.grid)).flatten(2).transpose(1, 2)
        x = torch.addcmul(x, gate_a, normalised(self.attention, self.norm_attention, x, shift_a, scale_a))
        if self.cross is not None and self.norm_cross is not None:
            x = x + self.cross(self.norm_cross(x), *context)
        return torch.addcmul(x, gate_m, normalised(self.mlp, self.norm_mlp, x, shift_m, scale_m))


class DiT(Network):
    """Diffusion transformer.

    Args:
        config: its options.
        channels: channels of the picture.
        size: height and width of the picture in pixels (one number if square), multiples of the patch.
        classes: number of classes, or None for a network without labels.

    Raises:
        InputError: if the patch does not divide the size, or the heads the width, or for an unknown activation.
    """

    def __init__(
        self, config: DiTConfig, *, channels: int, size: int | tuple[int, int], classes: int | None = None
    ) -> None:
        super().__init__()
        patch, width = config.patch, config.width
        self.config, self.channels, self.size = config, channels, pair(size)
        check_size(self.size, patch)
        self.patch, self.image, self.context = patch, config.image, config.context
        self.conditions = conditions(classes, config.vector, config.context, config.length, config.image)
        self.grid = (self.size[0] // patch, self.size[1] // patch)

        self.embed = nn.Conv2d(channels + config.image, width, patch, stride=patch)
        self.register_buffer("positions", grid_positions(*self.grid, width), persistent=False)
        time = TimeEmbedding(256, width, endpoint=config.endpoint)
        self.conditioning = Conditioning(time, classes, config.vector)
        self.blocks = nn.ModuleList(Block(config, self.grid) for _ in range(config.depth))
        self.norm = plain_norm(width)
        self.modulation = zeroed(nn.Linear(width, 2 * width))
        self.out = zeroed(nn.Linear(width, patch * patch * channels * (2 if config.learn_sigma else 1)))

    def forward(self, x: Tensor, time: Tensor, cond: Cond | None = None) -> Tensor:
        """The network's output for noisy pictures.

        Args:
            x: ``(B, channels, H, W)``.
            time: ``()`` or ``(B,)``, a number of order 1.
            cond: the conditions; one that is absent is its null.

        Returns:
            ``(B, channels, H, W)``, or twice the channels with a variance.
        """
        check_picture(x, self.channels, self.patch, self.size)
        condition = self.conditioning(time, cond, x.shape[0])
        tokens = to_tokens(self.embed(with_image(x, cond, self.image))) + self.positions  # pyright: ignore[reportOperatorIssue]
        context = told(cond, self.context, x)[:2] if self.context else ()
        for block in self.blocks:
            tokens = self.through(block, tokens, condition, *context)
        shift, scale = self.modulation(condition)[:, None].chunk(2, dim=-1)
        return unpatch(self.out(norm_modulate(self.norm, tokens, shift, scale)), self.grid, self.patch)
