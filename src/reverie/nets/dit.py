"""DiT: a diffusion transformer on patches, conditioned by adaptive layer norm.

Peebles & Xie, "Scalable Diffusion Models with Transformers", ICCV 2023. A block normalises its tokens, scales and
shifts them by numbers computed from time and class, and gates what it adds (adaLN-Zero). Those numbers start at zero:
every block starts as the identity, the network as the constant 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from reverie.core.condition import Label
from reverie.nets.attention import Attention
from reverie.nets.embeddings import Conditioning, grid_positions
from reverie.nets.layers import FeedForward, check_picture, check_size, modulate, pair, zeroed

if TYPE_CHECKING:
    from reverie.core.condition import Cond, ConditionSpec


def _plain_norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)


class Block(nn.Module):
    """Attention and a perceptron on tokens ``(B, N, width)``, modulated and gated by ``(B, width)`` (figure 3).

    With ``local``, a depthwise convolution over the ``grid`` of tokens comes first.
    """

    def __init__(self, width: int, heads: int, activation: str, local: bool, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        self.local = zeroed(nn.Conv2d(width, width, 3, padding=1, groups=width)) if local else None
        self.norm_attention = _plain_norm(width)
        self.attention = Attention(width, heads)
        self.norm_mlp = _plain_norm(width)
        self.mlp = FeedForward(width, 4 * width, activation)
        self.modulation = zeroed(nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(condition)[:, None].chunk(6, dim=-1)
        if self.local is not None:
            x = x + self.local(x.transpose(1, 2).unflatten(2, self.grid)).flatten(2).transpose(1, 2)
        x = torch.addcmul(x, gate_a, self.attention(modulate(self.norm_attention(x), shift_a, scale_a)))
        return torch.addcmul(x, gate_m, self.mlp(modulate(self.norm_mlp(x), shift_m, scale_m)))


class DiT(nn.Module):
    """Diffusion transformer.

    Args:
        channels: channels of the picture.
        size: height and width of the picture in pixels (one number if square), multiples of ``patch``.
        patch: side of a patch in pixels.
        width: features per token.
        depth: number of blocks.
        heads: attention heads per block.
        activation: of the perceptrons, "gelu" (tanh form) or "relu".
        local: a depthwise 3x3 convolution over the tokens before each attention (Chu et al. 2023), zero at the start.
        classes: number of classes, or None for a network without labels.

    Raises:
        InputError: if the patch does not divide the size, or the heads the width, or for an unknown activation.
    """

    def __init__(
        self,
        *,
        channels: int,
        size: int | tuple[int, int],
        patch: int,
        width: int,
        depth: int,
        heads: int,
        activation: str = "gelu",
        local: bool = False,
        classes: int | None = None,
    ) -> None:
        super().__init__()
        self.size = pair(size)
        check_size(self.size, patch)
        self.channels, self.patch = channels, patch
        self.conditions: dict[str, ConditionSpec] = {} if classes is None else {"label": Label(classes=classes)}
        self.grid = (self.size[0] // patch, self.size[1] // patch)

        self.embed = nn.Conv2d(channels, width, patch, stride=patch)
        self.register_buffer("positions", grid_positions(*self.grid, width), persistent=False)
        self.conditioning = Conditioning(256, width, classes)
        self.blocks = nn.ModuleList(Block(width, heads, activation, local, self.grid) for _ in range(depth))
        self.norm = _plain_norm(width)
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
        condition = self.conditioning(time, cond, x.shape[0])
        tokens = self.embed(x).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            tokens = block(tokens, condition)
        shift, scale = self.modulation(condition)[:, None].chunk(2, dim=-1)
        return self._picture(self.out(modulate(self.norm(tokens), shift, scale)))

    def _picture(self, tokens: Tensor) -> Tensor:
        """Tokens ``(B, N, patch * patch * channels)`` laid out as a picture ``(B, channels, H, W)``."""
        patches = tokens.unflatten(-1, (self.patch, self.patch, self.channels)).unflatten(1, self.grid)
        return patches.permute(0, 5, 1, 3, 2, 4).reshape(-1, self.channels, *self.size)
