"""PixelRNN (van den Oord et al. 2016, "Pixel Recurrent Neural Networks", arXiv:1601.06759): LSTM layers that run over a picture.

The Row LSTM goes from top to bottom, a row at a time; it sees the triangle above a pixel, and what its input sees to the left. The
Diagonal BiLSTM goes from both upper corners, a diagonal at a time, and sees what is earlier. Around either, as in the paper: a first
convolution with mask A, residual connections, and two pixelwise layers before the softmax.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.core.condition import Cond
from reverie.families.autoregressive import CausalNet, Chain
from reverie.families.causal import CausalConv, Memory, below, colour_of, mask
from reverie.families.layout import Layout, value
from reverie.nets.embeddings import LabelEmbedding

Kind = Literal["row", "diagonal"]


def lstm(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Equation 3: gates (B, 4·width, …) and the cell before (B, width, …) -> hidden and cell."""
    forget, write, read, new = gates.chunk(4, 1)
    cell = forget.sigmoid() * cell + write.sigmoid() * new.tanh()
    return read.sigmoid() * cell.tanh(), cell


@dataclass
class Row:
    """What a layer knows of one row of pictures that come pixel by pixel: input, hidden state and cell, all (n, width, W)."""

    number: int
    x: Tensor
    hidden: Tensor
    cell: Tensor

    @classmethod
    def empty(cls, number: int, like: Tensor) -> Row:
        return cls(number, *(torch.zeros_like(like) for _ in range(3)))

    def keep(self, at: int, x: Tensor, hidden: Tensor, cell: Tensor) -> None:
        self.x[..., at], self.hidden[..., at], self.cell[..., at] = x, hidden, cell


class Recurrent(nn.Module, ABC):
    """A layer: features (B, width, H, W) of whole pictures, or with a memory the next pixel (n, width, 1, 1), to as many hidden states."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        if memory is None:
            return self.whole(x)
        blank = x.new_zeros(len(x), self.width, memory.width)
        now, before = memory.kept.get(self) or (Row.empty(0, blank), self.said(Row.empty(-1, blank)))
        if now.number != memory.row:
            now, before = Row.empty(memory.row, blank), self.said(now, before)
        memory.kept[self] = now, before
        assert memory.column is not None
        hidden, cell, out = self.pixel(x, now, before, memory.column, memory)
        now.keep(memory.column, x[..., 0, 0], hidden, cell)
        return out[..., None, None]

    @abstractmethod
    def whole(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def said(self, row: Row, before: tuple[Tensor, ...] | None = None) -> tuple[Tensor, ...]:
        """What a finished row tells the next one, given what it was told itself."""

    @abstractmethod
    def pixel(
        self, x: Tensor, now: Row, before: tuple[Tensor, ...], at: int, memory: Memory
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden state, cell and output (n, width) at a column."""


class RowLSTM(Recurrent):
    """Input-to-state by the pixel and the one left of it, state-to-state by three pixels of the row above (section 3.1)."""

    def __init__(self, width: int, colours: int) -> None:
        super().__init__(width)
        of = colour_of(width, colours)
        self.inputs = CausalConv(width, 4 * width, left=1, mask=mask(of.repeat(4), of))
        self.states = nn.Conv1d(width, 4 * width, 3, padding=1)

    def whole(self, x: Tensor) -> Tensor:
        hidden = cell = torch.zeros_like(x[:, :, 0])
        rows = []
        for gates in self.inputs(x).unbind(2):
            hidden, cell = lstm(gates + self.states(hidden), cell)
            rows.append(hidden)
        return torch.stack(rows, 2)

    def said(self, row: Row, before: tuple[Tensor, ...] | None = None) -> tuple[Tensor, ...]:
        return self.states(row.hidden), row.cell

    def pixel(
        self, x: Tensor, now: Row, before: tuple[Tensor, ...], at: int, memory: Memory
    ) -> tuple[Tensor, Tensor, Tensor]:
        states, cell = before
        hidden, cell = lstm(self.inputs(x, memory)[..., 0, 0] + states[..., at], cell[..., at])
        return hidden, cell, hidden


class Diagonal(nn.Module):
    """One direction: a pixel from the states of the one left of it and the one above it (section 3.2)."""

    def __init__(self, width: int, colours: int) -> None:
        super().__init__()
        of = colour_of(width, colours)
        self.inputs = CausalConv(width, 4 * width, mask=mask(of.repeat(4), of))
        self.states = nn.Conv1d(width, 4 * width, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) -> (B, width, H, W): row r is shifted by r, so that a diagonal is a column (figure 3)."""
        _, _, high, wide = x.shape
        gates = F.pad(self.inputs(x), (0, high)).flatten(2)[..., :-high].unflatten(2, (high, -1))
        hidden = cell = torch.zeros_like(x[..., 0])
        row, columns = torch.arange(high, device=x.device), []
        for number, gate in enumerate(gates.unbind(3)):
            begun = (row <= number).to(x.dtype)  # before that, a row has no pixel on this diagonal
            hidden, cell = (begun * state for state in self.step(gate, F.pad(hidden, (1, 0)), cell))
            columns.append(hidden)
        skewed = torch.stack(columns, 3).flatten(2)
        return F.pad(skewed, (0, high)).unflatten(2, (high, -1))[..., :wide]

    def step(self, gates: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Gates (B, 4·width, N), hidden states above and left (B, width, N + 1), cells left (B, width, N) -> both states (B, width, N)."""
        return lstm(gates + self.states(hidden), cell)


class DiagonalBiLSTM(Recurrent):
    """Both directions; that from the right is shifted down by a row, so that it sees no later pixel.

    Of all earlier pixels one is missed at first, as in the paper: mask A hides the last one of a row at its own place, and there is no
    place to the right of it, so the next row sees it only as far as the first convolution does.
    """

    def __init__(self, width: int, colours: int) -> None:
        super().__init__(width)
        self.rightwards, self.leftwards = Diagonal(width, colours), Diagonal(width, colours)

    def whole(self, x: Tensor) -> Tensor:
        return self.rightwards(x) + below(self.leftwards(x.flip(3)).flip(3))

    def said(self, row: Row, before: tuple[Tensor, ...] | None = None) -> tuple[Tensor, ...]:
        """The hidden states of the row, and those of the other direction, which can be computed now that the row is known."""
        if before is None:
            return row.hidden, row.hidden
        gates = self.leftwards.inputs(row.x[:, :, None])[:, :, 0]
        hidden = cell = torch.zeros_like(row.x[..., :1])
        columns = []
        for at in reversed(range(row.x.shape[2])):
            above = before[1][..., at : at + 1]
            hidden, cell = self.leftwards.step(gates[..., at : at + 1], torch.cat([above, hidden], 2), cell)
            columns.append(hidden)
        return row.hidden, torch.cat(columns[::-1], 2)

    def pixel(
        self, x: Tensor, now: Row, before: tuple[Tensor, ...], at: int, memory: Memory
    ) -> tuple[Tensor, Tensor, Tensor]:
        above, other = before
        left = [F.pad(state, (1, 0))[..., at : at + 1] for state in (now.hidden, now.cell)]
        gates = self.rightwards.inputs(x)[..., 0]
        states = self.rightwards.step(gates, torch.cat([above[..., at : at + 1], left[0]], 2), left[1])
        hidden, cell = (state[..., 0] for state in states)
        return hidden, cell, hidden + other[..., at]


LAYERS: dict[Kind, type[RowLSTM] | type[DiagonalBiLSTM]] = {"row": RowLSTM, "diagonal": DiagonalBiLSTM}


class PixelRNN(CausalNet):
    """Levels of sub-pixels in raster order, each a choice by softmax.

    Args:
        layout: of patch 1.
        classes: that it is told, if any.
        kind: of its layers.
        width: features, dealt out to the colours.
        depth: layers.
    """

    def __init__(self, layout: Layout, classes: int | None, kind: Kind, width: int, depth: int) -> None:
        super().__init__()
        colours, self.height, self.width = layout.shape
        self.layout, self.length, self.choices, self.colours = layout, layout.length, layout.levels, colours

        of = colour_of(width, colours)

        def pixelwise(outputs: int) -> CausalConv:
            return CausalConv(width, outputs, mask=mask(colour_of(outputs, colours), of))

        self.above = CausalConv(colours, width, 2, 3, 3)
        self.own = CausalConv(colours, width, 0, 3, mask=mask(of, torch.arange(colours), strict=True))
        self.conditioning = None if classes is None else LabelEmbedding(classes, width)
        self.layers = nn.ModuleList(LAYERS[kind](width, colours) for _ in range(depth))
        self.up = nn.ModuleList(pixelwise(width) for _ in range(depth))
        self.hidden, self.out = pixelwise(width), pixelwise(colours * self.choices)

    def log_prob(self, tokens: Tensor, cond: Cond | None) -> Tensor:
        levels = self.layout.levels_of(tokens)
        logits = self(value(levels, self.choices, self.out.weight.dtype), cond)
        return -F.cross_entropy(logits.transpose(1, 2), levels, reduction="none")

    def forward(self, x: Tensor, cond: Cond | None) -> Tensor:
        """Pictures (B, C, H, W) in [−1, 1] -> logits (B, C, choices, H, W) of each sub-pixel after those before it."""
        return self._pixels(x, self.above(below(x)) + self._told(cond, len(x)), None)

    def _told(self, cond: Cond | None, n: int) -> Tensor:
        return (
            self.out.weight.new_zeros(()) if self.conditioning is None else self.conditioning(cond, n)[:, :, None, None]
        )

    def _pixels(self, x: Tensor, above: Tensor, memory: Memory | None) -> Tensor:
        x = above + self.own(x, memory)
        for layer, up in zip(self.layers, self.up, strict=True):
            x = x + up(layer(x, memory))
        return self.out(F.relu(self.hidden(F.relu(x)))).unflatten(1, (self.colours, self.choices))

    def chain(self, n: int, cond: Cond | None) -> Chain:
        told, memory = self._told(cond, n), Memory(self.width)
        row = self.out.weight.new_zeros(n, self.colours, 1, self.width)
        for memory.row in range(self.height):
            memory.column = None
            above, row = self.above(row, memory) + told, torch.zeros_like(row)
            for memory.column in range(self.width):
                at = slice(memory.column, memory.column + 1)
                for colour in range(self.colours):
                    logits = self._pixels(row[..., at], above[..., at], memory)
                    level = yield logits[:, colour, :, 0, 0].log_softmax(-1)
                    row[:, colour, 0, memory.column] = value(level, self.choices, row.dtype)
                memory.window(self.own, row[..., at])  # now that the pixel is known
