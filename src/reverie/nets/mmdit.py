"""MM-DiT: text and picture as two streams of tokens with weights of their own that attend to each other as one sequence.

Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis", ICML 2024, figure 2. Time and a
pooled vector modulate both streams as in DiT; q and k may be normalised (section 5.3.2). The last block only reads the text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from reverie.core.errors import InputError
from reverie.nets.attention import JointAttention
from reverie.nets.config import MMDiTConfig
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
from reverie.nets.network import Network, conditions, tokens

if TYPE_CHECKING:
    from reverie.core.condition import Cond


class Stream(nn.Module):
    """What one stream has of its own in a block: its normalisations, modulation and perceptron.

    A stream that is ``pre_only`` is normalised and modulated for the attention, no more.
    """

    def __init__(self, width: int, pre_only: bool = False) -> None:
        super().__init__()
        self.modulation = zeroed(nn.Linear(width, (2 if pre_only else 6) * width))
        self.norm_attention = plain_norm(width)
        if not pre_only:
            self.norm_mlp = plain_norm(width)
            self.mlp = FeedForward(width, 4 * width)

    def before(self, x: Tensor, condition: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What the attention is given, and the numbers that are left for :meth:`after`."""
        shift, scale, *rest = self.modulation(condition)[:, None].split(x.shape[-1], dim=-1)
        return norm_modulate(self.norm_attention, x, shift, scale), tuple(rest)

    def after(self, x: Tensor, attended: Tensor, rest: tuple[Tensor, ...]) -> Tensor:
        """The stream with gated attention and perceptron added."""
        gate_a, shift, scale, gate_m = rest
        x = torch.addcmul(x, gate_a, attended)
        return torch.addcmul(x, gate_m, normalised(self.mlp, self.norm_mlp, x, shift, scale))


class Block(nn.Module):
    """Joint attention of pictures ``(B, N, width)`` and text ``(B, L, width)``; ``last`` gives no text."""

    def __init__(self, width: int, heads: int, qk_norm: bool, last: bool) -> None:
        super().__init__()
        self.picture, self.text = Stream(width), Stream(width, pre_only=last)
        self.attention = JointAttention(width, heads, qk_norm=qk_norm, last=last)

    def forward(self, x: Tensor, text: Tensor, condition: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        a, rest = self.picture.before(x, condition)
        b, rest_text = self.text.before(text, condition)
        a, b = self.attention(a, b, mask)
        x = self.picture.after(x, a, rest)
        return x, text if b is None else self.text.after(text, b, rest_text)


class MMDiT(Network):
    """Multimodal diffusion transformer.

    Args:
        config: its options.
        channels: channels of the picture.
        size: height and width of the picture in pixels (one number if square), multiples of the patch; others of as many patches a
            side as the position code knows serve as well.
        classes: number of classes, or None for a network without labels.

    Raises:
        InputError: if the patch does not divide the size, the heads the width, or the picture is larger than the position code.
    """

    def __init__(
        self, config: MMDiTConfig, *, channels: int, size: int | tuple[int, int], classes: int | None = None
    ) -> None:
        super().__init__()
        patch, width, depth, side = config.patch, config.width, config.depth, config.pos_embed_max_size
        self.config, self.channels, self.size = config, channels, pair(size)
        check_size(self.size, patch)
        self.patch, self.context, self.side = patch, config.context, side
        self.conditions = conditions(classes, config.vector, config.context, config.length)

        self.embed = nn.Conv2d(channels, width, patch, stride=patch)
        codes = grid_positions(side, side, width, scale=self.size[0] // patch / side)
        self.register_buffer("positions", codes.unflatten(0, (side, side)))
        self.conditioning = Conditioning(TimeEmbedding(256, width), classes, config.vector)
        self.text = nn.Linear(config.context or width, width)
        self.blocks = nn.ModuleList(
            Block(width, config.heads, config.qk_norm, last=i == depth - 1) for i in range(depth)
        )
        self.norm = plain_norm(width)
        self.modulation = zeroed(nn.Linear(width, 2 * width))
        self.out = zeroed(nn.Linear(width, patch * patch * channels))

    def tokens(self, x: Tensor) -> Tensor:
        """Pictures ``(B, channels, H, W)`` as the tokens ``(B, N, width)`` that the first block is given.

        Raises:
            InputError: for other channels, or more patches than the position code knows.
        """
        check_picture(x, self.channels, self.patch)
        grid = (x.shape[2] // self.patch, x.shape[3] // self.patch)
        if max(grid) > self.side:
            raise InputError(
                f"The picture has {grid[0]}x{grid[1]} patches; this network knows positions of at most {self.side} a side. "
                "Give smaller pictures."
            )
        top, left = ((self.side - each) // 2 for each in grid)
        positions = self.positions[top : top + grid[0], left : left + grid[1]].flatten(0, 1)  # pyright: ignore[reportIndexIssue]
        return to_tokens(self.embed(x)) + positions

    def forward(self, x: Tensor, time: Tensor, cond: Cond | None = None) -> Tensor:
        """The network's output for noisy pictures.

        Args:
            x: ``(B, channels, H, W)``.
            time: ``()`` or ``(B,)``, a number of order 1.
            cond: the conditions "text" and "vector"; one that is absent is zeros.

        Returns:
            ``(B, channels, H, W)``.
        """
        h = self.tokens(x)
        condition = self.conditioning(time, cond, x.shape[0])
        mask = None
        if self.context:
            given, mask, *_ = tokens(cond, self.context, x)
        else:
            given = condition[:, None]
        text = self.text(given)
        for block in self.blocks:
            h, text = self.through(block, h, text, condition, mask)
        shift, scale = self.modulation(condition)[:, None].chunk(2, dim=-1)
        grid = (x.shape[2] // self.patch, x.shape[3] // self.patch)
        return unpatch(self.out(norm_modulate(self.norm, h, shift, scale)), grid, self.patch)
