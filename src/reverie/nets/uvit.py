"""U-ViT: a plain vision transformer that treats time, condition and patches as tokens, with long skip connections.

Bao et al., "All are Worth Words: A ViT Backbone for Diffusion Models", CVPR 2023. The first half of the blocks hands its
tokens over to the second half, last to first, by concatenation and a linear layer (figure 1); a 3x3 convolution ends it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from reverie.nets.attention import Attention
from reverie.nets.config import UViTConfig
from reverie.nets.embeddings import LabelEmbedding, Numbers, sinusoids
from reverie.nets.layers import FeedForward, check_picture, check_size, pair, to_tokens, unpatch
from reverie.nets.network import Network, Skip, conditions, tokens
from reverie.nets.prepacked import Linear

if TYPE_CHECKING:
    from reverie.core.condition import Cond


class Block(nn.Module):
    """Attention and a perceptron on tokens ``(B, N, width)``; the late ones first mix in the tokens of an early one."""

    def __init__(self, width: int, heads: int, late: bool = False) -> None:
        super().__init__()
        self.merge = Linear(2 * width, width) if late else None
        self.norm_attention = nn.LayerNorm(width)
        self.attention = Attention(width, heads, bias=False)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = FeedForward(width, 4 * width, "gelu-exact")

    def forward(self, x: Tensor, mask: Tensor | None, early: Tensor | None = None) -> Tensor:
        if self.merge is not None:
            x = self.merge(torch.cat([x, early], dim=-1))  # pyright: ignore[reportArgumentType]
        x = x + self.attention(self.norm_attention(x), mask=mask)
        return x + self.mlp(self.norm_mlp(x))


class UViT(Network):
    """U-ViT.

    Args:
        config: its options.
        channels: channels of the picture.
        size: height and width of the picture in pixels (one number if square), multiples of the patch.
        classes: number of classes, or None for a network without labels.

    Raises:
        InputError: if the patch does not divide the size, or the heads the width.
    """

    def __init__(
        self, config: UViTConfig, *, channels: int, size: int | tuple[int, int], classes: int | None = None
    ) -> None:
        super().__init__()
        patch, width, heads, context = config.patch, config.width, config.heads, config.context
        self.config, self.channels, self.size = config, channels, pair(size)
        check_size(self.size, patch)
        self.patch, self.width, self.context = patch, width, context
        self.conditions = conditions(classes, context=context, length=config.length)
        self.grid = (self.size[0] // patch, self.size[1] // patch)

        self.embed = nn.Conv2d(channels, width, patch, stride=patch)
        self.label = None if classes is None else LabelEmbedding(classes, width)
        self.text = nn.Linear(context, width) if context else None
        self.numbers = Numbers(width)
        self.extras = 1 + (self.label is not None) + (config.length if context else 0)
        self.positions = nn.Parameter(torch.zeros(self.extras + self.grid[0] * self.grid[1], width))
        half = config.depth // 2
        self.early = nn.ModuleList(Block(width, heads) for _ in range(half))
        self.middle = nn.ModuleList([Block(width, heads)])
        self.late = nn.ModuleList(Block(width, heads, late=True) for _ in range(half))
        self.skip = nn.ModuleList(Skip() for _ in range(half))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, patch * patch * channels)
        self.smooth = nn.Conv2d(channels, channels, 3, padding=1) if config.final_conv else nn.Identity()

        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.positions, std=0.02)

    def forward(self, x: Tensor, time: Tensor, cond: Cond | None = None) -> Tensor:
        """The network's output for noisy pictures.

        Args:
            x: ``(B, channels, H, W)``.
            time: ``()`` or ``(B,)``, a number of order 1.
            cond: the conditions; one that is absent is its null.

        Returns:
            ``(B, channels, H, W)``.
        """
        check_picture(x, self.channels, self.patch, self.size)
        prefix, mask = self._prefix(x, time, cond)
        patches = to_tokens(self.embed(x))
        positions = torch.cat([self.positions[: prefix.shape[1]], self.positions[self.extras :]])
        x = torch.cat([prefix, patches], dim=1) + positions
        skips = []
        for block, skip in zip(self.early, self.skip, strict=True):
            x = self.through(block, x, mask)
            skips.append(skip(x))
        x = self.through(self.middle[0], x, mask)
        for block in self.late:
            x = self.through(block, x, mask, skips.pop())
        x = self.out(self.norm(x)[:, prefix.shape[1] :])
        return self.smooth(unpatch(x, self.grid, self.patch))

    def _prefix(self, x: Tensor, time: Tensor, cond: Cond | None) -> tuple[Tensor, Tensor | None]:
        """The tokens before the patches, (B, n, width): label, time, text; and the mask of all tokens, if there is padding."""
        batch = len(x)
        waves = sinusoids(1000.0 * time.expand(batch), self.width).to(x.dtype)
        prefix, mask = [self.numbers(waves, cond)[:, None]], None
        if self.label is not None:
            prefix.insert(0, self.label(cond, batch).expand(batch, -1)[:, None])
        if self.text is not None:
            text = tokens(cond, self.context, x)
            prefix.append(self.text(text.value))
            if text.mask is not None:
                here, rest = text.mask.new_ones(batch, len(prefix) - 1), self.grid[0] * self.grid[1]
                mask = torch.cat([here, text.mask, text.mask.new_ones(batch, rest)], dim=1)
        return torch.cat(prefix, dim=1), mask
