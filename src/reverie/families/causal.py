"""Causal convolutions over a picture, of all of it at once, of a row, or of one pixel that joins those before it.

A network is written once, as a forward over whole pictures. With a :class:`Memory` the same code computes a row or a pixel at a time:
its convolutions then take what lies above and to the left from what the memory has seen, in place of from the picture.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Memory:
    """What each convolution has seen of pictures that come row by row, or pixel by pixel: the last rows, as many as it reads.

    Attributes:
        width: of the pictures.
        row: where we are.
        column: where we are in the row; None for all of it at once.
        kept: what other layers keep.
    """

    row: int
    column: int | None

    def __init__(self, width: int) -> None:
        self.width, self.row, self.column = width, 0, None
        self.seen: dict[CausalConv, tuple[int, Tensor]] = {}
        self.kept: dict[nn.Module, Any] = {}

    def window(self, conv: CausalConv, x: Tensor) -> Tensor:
        """Keep the new row (n, c, 1, W) or pixel (n, c, 1, 1), and give it with all around it that the convolution reads."""
        size = (conv.up + 1, conv.left + self.width + conv.right)
        row, seen = self.seen.get(conv) or (self.row, x.new_zeros(len(x), conv.in_channels, *size))
        if row != self.row:
            seen = F.pad(seen, (0, 0, -1, 1))
        self.seen[conv] = self.row, seen
        if self.column is None:
            seen[:, :, -1, conv.left : conv.left + self.width] = x[:, :, 0]
            return seen
        seen[:, :, -1, self.column + conv.left] = x[:, :, 0, 0]
        return seen[:, :, :, self.column : self.column + conv.left + 1]


class CausalConv(nn.Conv2d):
    """A convolution of the rows up to the pixel's own, and of the columns left and right of it.

    Args:
        inputs, outputs: channels.
        up: rows above the pixel's that are seen.
        left, right: columns that are seen; what lies to the right can be seen only by whole rows.
        mask: (outputs, inputs) of 0 and 1, which channels of the pixel itself are seen, see :func:`mask`; without, all.
        dilation: every so many of these rows and columns is seen, and as many times further.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        up: int = 0,
        left: int = 0,
        right: int = 0,
        mask: Tensor | None = None,
        dilation: int = 1,
    ) -> None:
        super().__init__(inputs, outputs, (up + 1, left + right + 1), dilation=dilation)
        self.own, self.up, self.left, self.right = left, up * dilation, left * dilation, right * dilation
        self.register_buffer("mask", mask, persistent=False)
        self.mask: Tensor | None

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W); with a memory one row or pixel of it."""
        weight = self.weight
        if self.mask is not None:
            own = weight[:, :, -1:, self.own : self.own + 1] * self.mask[:, :, None, None]
            weight = own if weight.shape[2:] == (1, 1) else torch.cat([weight[..., : self.own], own], 3)
        x = x.contiguous(memory_format=torch.channels_last)  # which oneDNN convolves in half the time
        if self.up == self.left == self.right == 0:
            window = x
        else:
            window = F.pad(x, (self.left, self.right, self.up, 0)) if memory is None else memory.window(self, x)
        if window.shape[2:] != (self.up + 1, self.left + self.right + 1):
            return F.conv2d(window, weight, self.bias, dilation=self.dilation)
        step, _ = self.dilation  # one place: a product of matrices, which takes a fraction of the time
        return F.linear(window[:, :, ::step, ::step].flatten(1), weight.flatten(1), self.bias)[:, :, None, None]


def colour_of(channels: int, colours: int) -> Tensor:
    """The colour, as of 0 red, 1 green and 2 blue, that each of so many channels of a pixel belongs to, in order."""
    return torch.arange(channels) * colours // channels


def mask(of: Tensor, seen: Tensor, strict: bool = False) -> Tensor:
    """Which channels, of colours ``seen`` (inputs,), channels of colours ``of`` (outputs,) see at the pixel itself.

    Those of the colours before their own (mask A, ``strict``), or also of it (mask B).

    Returns:
        (outputs, inputs) of 0 and 1.
    """
    return ((of[:, None] > seen) if strict else (of[:, None] >= seen)).float()


def below(x: Tensor) -> Tensor:
    """Each row where the next one was: what every pixel knows of all rows above its own."""
    return F.pad(x, (0, 0, 1, -1))


def rightwards(x: Tensor) -> Tensor:
    """Each column where the next one was."""
    return F.pad(x, (1, -1))
