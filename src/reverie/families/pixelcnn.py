"""Gated PixelCNN (van den Oord et al. 2016, "Conditional Image Generation with PixelCNN Decoders", arXiv:1606.05328).

Two stacks of convolutions without a blind spot: the vertical one sees all rows above the pixel, the horizontal one what is left of it in
its row, and hears the vertical one. Masks (van den Oord et al. 2016, "Pixel Recurrent Neural Networks", figure 2) keep the colours of a
pixel in order: A, in the first layer, shows a colour those before it, B also itself. Later layers are dilated, twice as far from one to
the next in cycles (van den Oord et al. 2016, "WaveNet", arXiv:1609.03499): as far as a digit is high, in few layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.core.condition import Cond
from reverie.families.autoregressive import CausalNet, Chain
from reverie.families.causal import CausalConv, Memory, below, colour_of, mask
from reverie.families.layout import Layout, value
from reverie.nets.embeddings import LabelEmbedding


def gate(x: Tensor) -> Tensor:
    """tanh(a)·σ(b) of the halves of the channels, equation 2."""
    a, b = x.chunk(2, 1)
    return a.tanh() * b.sigmoid()


class Layer(nn.Module):
    """One layer of both stacks (figure 2). The first has mask A, and nothing to add its residual to; after the last nothing follows."""

    def __init__(
        self, inputs: int, width: int, reach: int, dilation: int, colours: int, first: bool, last: bool
    ) -> None:
        super().__init__()
        self.first = first
        of = colour_of(width, colours)
        self.vertical = CausalConv(inputs, 2 * width, reach, reach, reach, dilation=dilation)
        self.across = nn.Conv2d(2 * width, 2 * width, 1)
        seen = mask(of.repeat(2), colour_of(inputs, colours), strict=first)
        self.horizontal = CausalConv(inputs, 2 * width, 0, reach, mask=seen, dilation=dilation)
        self.skip = CausalConv(width, width, mask=mask(of, of))
        self.residual = None if last else CausalConv(width, width, mask=mask(of, of))

    def rows(self, v: Tensor, label: Tensor, memory: Memory | None) -> tuple[Tensor, Tensor]:
        """The vertical stack, and what it says to the horizontal one."""
        v = self.vertical(v, memory)
        return gate(v + label), self.across(v) + label

    def pixels(self, h: Tensor, said: Tensor, memory: Memory | None) -> tuple[Tensor, Tensor]:
        """The horizontal stack, and what it gives to the output."""
        out = gate(self.horizontal(h, memory) + said)
        if self.residual is not None:
            h = self.residual(out) if self.first else h + self.residual(out)
        return h, self.skip(out)


class PixelCNN(CausalNet):
    """Levels of sub-pixels in raster order, each a choice by softmax.

    Args:
        layout: of patch 1.
        classes: that it is told, if any.
        width: channels of a stack, dealt out to the colours.
        depth: layers.
        reach: pixels that a layer sees in each direction.
        first: that the first one sees.
        cycle: layers after the first until the dilation, twice as wide from one to the next, is 1 again.
    """

    def __init__(
        self, layout: Layout, classes: int | None, width: int, depth: int, reach: int, first: int, cycle: int
    ) -> None:
        super().__init__()
        colours, self.height, self.width = layout.shape
        self.layout, self.length, self.choices, self.colours = layout, layout.length, layout.levels, colours
        self.layers = nn.ModuleList(
            [Layer(colours, width, first, 1, colours, True, depth == 1)]
            + [Layer(width, width, reach, 2 ** (i % cycle), colours, False, i == depth - 2) for i in range(depth - 1)]
        )
        of, outputs = colour_of(width, colours), colours * self.choices
        self.hidden = CausalConv(width, width, mask=mask(of, of))
        self.out = CausalConv(width, outputs, mask=mask(colour_of(outputs, colours), of))
        self.conditioning = (
            None if classes is None else nn.ModuleList(LabelEmbedding(classes, 2 * width) for _ in range(depth))
        )

    def log_prob(self, tokens: Tensor, cond: Cond | None) -> Tensor:
        levels = self.layout.levels_of(tokens)
        logits = self(value(levels, self.choices, self.out.weight.dtype), cond)
        logits, levels = logits.permute(0, 3, 4, 1, 2), levels.permute(0, 2, 3, 1)
        surprise = F.cross_entropy(logits.flatten(0, 3), levels.flatten(), reduction="none")
        return -surprise.unflatten(0, levels.shape).permute(0, 3, 1, 2)

    def forward(self, x: Tensor, cond: Cond | None) -> Tensor:
        """Pictures (B, C, H, W) in [−1, 1] -> logits (B, C, choices, H, W) of each sub-pixel after those before it."""
        labels = self._labels(cond, len(x))
        return self._pixels(x, self._rows(below(x), labels, None), None)

    def _labels(self, cond: Cond | None, n: int) -> list[Tensor]:
        if self.conditioning is None:
            return [self.out.weight.new_zeros(())] * len(self.layers)
        return [label(cond, n)[:, :, None, None] for label in self.conditioning]

    def _rows(self, v: Tensor, labels: list[Tensor], memory: Memory | None) -> list[Tensor]:
        """What the vertical stack says to each layer of the horizontal one."""
        said = []
        for layer, label in zip(self.layers, labels, strict=True):
            v, told = layer.rows(v, label, memory)  # pyright: ignore[reportCallIssue]
            said.append(told)
        return said

    def _pixels(self, h: Tensor, said: list[Tensor], memory: Memory | None) -> Tensor:
        """Logits, from the horizontal stack."""
        skips = self.out.weight.new_zeros(())
        for layer, told in zip(self.layers, said, strict=True):
            h, skip = layer.pixels(h, told, memory)  # pyright: ignore[reportCallIssue]
            skips = skips + skip
        logits = self.out(F.relu(self.hidden(F.relu(skips))))
        return logits.unflatten(1, (self.colours, self.choices))

    def chain(self, n: int, cond: Cond | None) -> Chain:
        labels, memory = self._labels(cond, n), Memory(self.width)
        first: CausalConv = self.layers[0].horizontal  # pyright: ignore[reportAssignmentType]
        above = self.out.weight.new_zeros(n, self.colours, 1, self.width)
        for memory.row in range(self.height):
            memory.column = None
            said = self._rows(above, labels, memory)
            above = torch.zeros_like(above)
            for memory.column in range(self.width):
                at = slice(memory.column, memory.column + 1)
                for colour in range(self.colours):
                    logits = self._pixels(above[..., at], [told[..., at] for told in said], memory)
                    level = yield logits[:, colour, :, 0, 0].log_softmax(-1)
                    above[:, colour, 0, memory.column] = value(level, self.choices, above.dtype)
                memory.window(first, above[..., at])  # now that the pixel is known
