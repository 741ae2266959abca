"""Spatial transformer: how the U-Net of latent diffusion attends to its feature map and to a text.

Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", CVPR 2022, appendix E.2: the places of the
feature map are tokens; each block attends among them, then to the condition's tokens, then applies a gated perceptron.
"""

from __future__ import annotations

from torch import Tensor, nn

from reverie.nets.attention import Attention
from reverie.nets.layers import FeedForward, group_norm, zeroed
from reverie.nets.prepacked import Linear


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention and a gated perceptron on tokens ``(B, N, width)``, each added to them."""

    def __init__(self, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = Attention(width, heads, bias=False)
        self.norm_cross = nn.LayerNorm(width)
        self.cross = Attention(width, heads, context=context, bias=False)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = FeedForward(width, 4 * width, "gelu-exact", gated=True)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self.attention(self.norm_attention(x))
        x = x + self.cross(self.norm_cross(x), context, mask)
        return x + self.mlp(self.norm_mlp(x))


class SpatialTransformer(nn.Module):
    """Transformer blocks over the places of a feature map ``(B, channels, H, W)``, added to it; starts as the identity."""

    def __init__(self, channels: int, heads: int, context: int, depth: int, groups: int) -> None:
        super().__init__()
        self.norm = group_norm(channels, groups=groups)
        self.enter = Linear(channels, channels)
        self.blocks = nn.ModuleList(TransformerBlock(channels, heads, context) for _ in range(depth))
        self.leave = zeroed(Linear(channels, channels))

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """``context`` (B, L, features), ``mask`` (B, L) bool, true where a token is real."""
        tokens = self.enter(self.norm(x).flatten(2).transpose(1, 2))
        for block in self.blocks:
            tokens = block(tokens, context, mask)
        return x + self.leave(tokens).transpose(1, 2).unflatten(2, x.shape[2:])
