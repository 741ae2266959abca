"""JiT: a plain transformer on large patches of pixels that predicts the clean picture.

Li & He, "Back to Basics: Let Denoising Generative Models Denoise", 2025 (arXiv 2511.13720). Patches of 16 or 32 pixels
enter through a narrow bottleneck; blocks are DiT's with RMS normalisation, gated perceptrons, normalised q and k, and
rotary positions; from one block on, tokens of the class join the sequence. Train it with ``kind="x0"``. Its authors count the time
from noise to data and give it to the sinusoids as it is, in [0, 1]; ours runs the other way, and is given as it is, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from reverie.nets.attention import Attention
from reverie.nets.config import JiTConfig
from reverie.nets.embeddings import LabelEmbedding, Numbers, TimeEmbedding, grid_positions
from reverie.nets.layers import FeedForward, check_picture, check_size, modulate, pair, to_tokens, unpatch, zeroed
from reverie.nets.network import Network, conditions
from reverie.nets.precision import KeepsPrecision

if TYPE_CHECKING:
    from reverie.core.condition import Cond


def rotations(rows: int, columns: int, features: int, before: int = 0) -> Tensor:
    """Angles of rotary positions on a grid: half of the ``features`` of a head turn with the row, half with the column (Su et al. 2021).

    Returns:
        (before + rows * columns, features), each angle twice in a row; zero for the tokens ``before``.
    """
    quarter = features // 4
    rate = 10_000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = torch.cat([axis.flatten()[:, None] * rate for axis in (row, column)], dim=1)
    angles = torch.cat([angles.new_zeros(before, 2 * quarter), angles])
    return angles.repeat_interleave(2, dim=1).float()


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Pairs of features of ``x`` (B, heads, N, d) turned by ``angles`` (N, d)."""
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    return x * angles.cos().to(x.dtype) + torch.stack([-b, a], dim=-1).flatten(-2) * angles.sin().to(x.dtype)


class RotaryAttention(Attention):
    """Self-attention whose normalised q and k are turned by the position of their token."""

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v = self.split(self.qkv(x), 3)
        return self.out(self.attend(rotate(self.norm_q(q), angles), rotate(self.norm_k(k), angles), v))


class Block(nn.Module):
    """Attention and a gated perceptron on tokens ``(B, N, width)``, modulated and gated by ``(B, width)``."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_attention = nn.RMSNorm(width, eps=1e-6)
        self.attention = RotaryAttention(width, heads, qk_norm=True)
        self.norm_mlp = nn.RMSNorm(width, eps=1e-6)
        self.mlp = FeedForward(width, 4 * width * 2 // 3, "silu", gated=True)
        self.modulation = zeroed(nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, condition: Tensor, angles: Tensor) -> Tensor:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(condition)[:, None].chunk(6, dim=-1)
        x = torch.addcmul(x, gate_a, self.attention(modulate(self.norm_attention(x), shift_a, scale_a), angles))
        return torch.addcmul(x, gate_m, self.mlp(modulate(self.norm_mlp(x), shift_m, scale_m)))


class JiT(KeepsPrecision, Network):
    """Just image Transformer.

    Args:
        config: its options.
        channels: channels of the picture.
        size: height and width of the picture in pixels (one number if square), multiples of the patch.
        classes: number of classes, or None for a network without labels (and without their tokens).

    Raises:
        InputError: if the patch does not divide the size, or the heads the width.
    """

    def __init__(
        self, config: JiTConfig, *, channels: int, size: int | tuple[int, int], classes: int | None = None
    ) -> None:
        super().__init__()
        patch, width = config.patch, config.width
        self.config, self.channels, self.size = config, channels, pair(size)
        check_size(self.size, patch)
        tokens = 0 if classes is None else config.context_tokens
        self.patch, self.context_tokens, self.context_start = patch, tokens, config.context_start
        self.conditions = conditions(classes)
        self.grid = (self.size[0] // patch, self.size[1] // patch)

        self.squeeze = nn.Conv2d(channels, config.bottleneck, patch, stride=patch, bias=False)
        self.embed = nn.Conv2d(config.bottleneck, width, 1)
        self.register_buffer("positions", grid_positions(*self.grid, width), persistent=False)
        self.register_buffer("angles", rotations(*self.grid, width // config.heads, tokens), persistent=False)
        self.time = TimeEmbedding(256, width, scale=1.0)
        self.label = None if classes is None else LabelEmbedding(classes, width)
        self.numbers = Numbers(width)
        # the weights of earlier runs have this name
        self.told_positions = nn.Parameter(0.02 * torch.randn(tokens, width)) if tokens else None
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.depth))
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.modulation = zeroed(nn.Linear(width, 2 * width))
        self.out = zeroed(nn.Linear(width, patch * patch * channels))

    def forward(self, x: Tensor, time: Tensor, cond: Cond | None = None) -> Tensor:
        """The network's output for noisy pictures.

        Args:
            x: ``(B, channels, H, W)``.
            time: ``()`` or ``(B,)``, a number of order 1.
            cond: labels; None, or absent labels, are the null class.

        Returns:
            ``(B, channels, H, W)``.
        """
        check_picture(x, self.channels, self.patch, self.size)
        batch = len(x)
        condition = self.time(time.expand(batch))
        label = None if self.label is None else self.label(cond, batch).expand(batch, -1)
        condition = nn.functional.silu(self.numbers(condition if label is None else condition + label, cond))
        x = to_tokens(self.embed(self.squeeze(x))) + self.positions.to(x.dtype)  # pyright: ignore[reportOperatorIssue]
        angles = self.angles[self.context_tokens :]  # pyright: ignore[reportIndexIssue]
        for i, block in enumerate(self.blocks):
            if i == self.context_start and label is not None and self.told_positions is not None:
                x, angles = torch.cat([label[:, None] + self.told_positions, x], dim=1), self.angles
            x = self.through(block, x, condition, angles)
        x = x[:, x.shape[1] - self.grid[0] * self.grid[1] :]
        shift, scale = self.modulation(condition)[:, None].chunk(2, dim=-1)
        return unpatch(self.out(modulate(self.norm(x), shift, scale)), self.grid, self.patch)
