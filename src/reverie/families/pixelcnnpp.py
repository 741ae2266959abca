"""PixelCNN++ (Salimans et al. 2017, arXiv:1701.05517): whole pixels, each from a discretised mixture of logistics.

Its two streams see the rows above, and these with what is left of the pixel. Gated residual blocks with concatenated ELU, of which each of
the second half hears the one that it mirrors in the first. What the paper does for pictures of 32x32 in days, to sample down and up between
the blocks, is left out: all blocks are of full size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.core.condition import Cond
from reverie.families.autoregressive import CausalNet, Chain
from reverie.families.causal import CausalConv, Memory, below, rightwards
from reverie.families.layout import Layout, value
from reverie.families.mixture import LogisticMixture
from reverie.nets.embeddings import LabelEmbedding


def concat_elu(x: Tensor) -> Tensor:
    """ELU of x and of −x, twice the channels (Shang et al. 2016)."""
    return F.elu(torch.cat([x, -x], 1))


class Block(nn.Module):
    """A gated residual block.

    Args:
        width: channels.
        heard: channels of the other features that it hears, or 0.
        right: pixels to the right that its convolutions see.
        dropout: between its two convolutions.
    """

    def __init__(self, width: int, heard: int, right: int, dropout: float) -> None:
        super().__init__()
        self.inner = CausalConv(2 * width, width, 1, 1, right)
        self.hears = nn.Conv2d(2 * heard, width, 1) if heard else None
        self.outer = CausalConv(2 * width, 2 * width, 1, 1, right)
        self.dropout = dropout

    def forward(self, x: Tensor, heard: list[Tensor], label: Tensor, memory: Memory | None) -> Tensor:
        inner = self.inner(concat_elu(x), memory)
        if self.hears is not None:
            inner = inner + self.hears(concat_elu(torch.cat(heard, 1)))
        inner = F.dropout(concat_elu(inner), self.dropout, self.training)
        a, b = (self.outer(inner, memory) + label).chunk(2, 1)
        return x + a * b.sigmoid()


class PixelCNNpp(CausalNet):
    """Pixels in raster order, the colours of each from one mixture.

    Args:
        layout: of patch 1.
        classes: that it is told, if any.
        width: channels of a stream.
        depth: blocks of each half.
        components: of the mixture.
        dropout: in the blocks.
    """

    def __init__(
        self, layout: Layout, classes: int | None, width: int, depth: int, components: int, dropout: float
    ) -> None:
        super().__init__()
        colours, self.height, self.width = layout.shape
        self.layout, self.length, self.choices, self.depth = layout, layout.length, layout.levels, depth
        self.above, self.over = CausalConv(colours, width, 1, 1, 1), CausalConv(colours, width, 0, 1, 1)
        self.left = CausalConv(colours, width, 1, 1)
        mirrored = [0] * depth + [width] * depth
        self.rows = nn.ModuleList(Block(width, heard, 1, dropout) for heard in mirrored)
        self.pixels = nn.ModuleList(Block(width, width + heard, 0, dropout) for heard in mirrored)
        self.conditioning = (
            None if classes is None else nn.ModuleList(LabelEmbedding(classes, 2 * width) for _ in mirrored)
        )
        self.out = LogisticMixture(width, colours, components, layout.levels)

    def log_prob(self, tokens: Tensor, cond: Cond | None) -> Tensor:
        levels = self.layout.levels_of(tokens)
        out = self(value(levels, self.choices, self.left.weight.dtype), cond)
        return self.out.log_prob(out.permute(0, 2, 3, 1), levels.permute(0, 2, 3, 1))

    def forward(self, x: Tensor, cond: Cond | None) -> Tensor:
        """Pictures (B, C, H, W) in [−1, 1] -> features (B, width, H, W) of each pixel, from those before it."""
        labels = self._labels(cond, len(x))
        u, over = self._rows(below(x), labels, None)
        return self._pixels(rightwards(x), u, over, labels, None)

    def _labels(self, cond: Cond | None, n: int) -> list[Tensor]:
        if self.conditioning is None:
            return [self.left.weight.new_zeros(())] * len(self.rows)
        return [label(cond, n)[:, :, None, None] for label in self.conditioning]

    def _rows(self, above: Tensor, labels: list[Tensor], memory: Memory | None) -> tuple[list[Tensor], Tensor]:
        """The stream of rows, after each block, and what the other begins with."""
        return self._blocks(self.rows, self.above(above, memory), [], labels, memory), self.over(above, memory)

    def _pixels(
        self, left: Tensor, u: list[Tensor], over: Tensor, labels: list[Tensor], memory: Memory | None
    ) -> Tensor:
        """The stream of pixels after its last block."""
        return F.elu(self._blocks(self.pixels, self.left(left, memory) + over, u, labels, memory)[-1])

    def _blocks(
        self, blocks: nn.ModuleList, x: Tensor, u: list[Tensor], labels: list[Tensor], memory: Memory | None
    ) -> list[Tensor]:
        after = [x]
        for i, block in enumerate(blocks):
            heard = [*u[i + 1 : i + 2], *([after[2 * self.depth - 1 - i]] if i >= self.depth else [])]
            after.append(block(after[-1], heard, labels[i], memory))
        return after

    def chain(self, n: int, cond: Cond | None) -> Chain:
        labels, memory = self._labels(cond, n), Memory(self.width)
        above = self.left.weight.new_zeros(n, self.layout.shape[0], 1, self.width)
        for memory.row in range(self.height):
            memory.column = None
            u, over = self._rows(above, labels, memory)
            row = torch.zeros_like(above)
            for memory.column in range(self.width):
                at = slice(memory.column, memory.column + 1)
                left = rightwards(row)[..., at]
                out = self._pixels(left, [x[..., at] for x in u], over[..., at], labels, memory)
                levels = yield from self.out.chain(out[..., 0, 0])
                row[:, :, 0, memory.column] = value(levels, self.choices, row.dtype)
            above = row
