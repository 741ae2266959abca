"""Winograd convolution: 3x3 with a quarter of the multiplications, where that is faster.

Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016 (arXiv 1509.09308). A picture is cut into tiles of
6x6 that overlap by 2; each tile d and filter g give 4x4 results

    Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A                                  (equation 8, F(4x4, 3x3))

so that the sum over channels is 36 matrix products, one for each place in the tile. The matrices are those of Toom and Cook: with V_k
evaluating polynomials of k coefficients at 0, ±1, ±2 and ∞, A = V_4, G = V_3 and B = V_6⁻ᵀ. The transforms are matrix products
too, with Bᵀ ⊗ Bᵀ, G ⊗ G and Aᵀ ⊗ Aᵀ. In single precision the error is about 1e-5 of the largest result, ten times the ordinary one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.core.tensors import asks_gradient
from reverie.nets.prepacked import Prepackable, plain, special

POINTS = (0.0, 1.0, -1.0, 2.0, -2.0)
TILE, SIDE = 4, 6
"""Sides of a tile of results, and of what it is made from."""
ROWS = 256
"""Tiles that are worked on at a time: what is made of them stays in the cache."""
CHANNELS, FEWEST = 1 / 60, 16
"""The greatest sum of the inverse numbers of channels, and the fewest tiles, of a convolution that gains by it."""


def _matrices() -> tuple[Tensor, Tensor, Tensor]:
    """``Bᵀ ⊗ Bᵀ`` (36, 36), ``G ⊗ G`` (36, 9) and ``Aᵀ ⊗ Aᵀ`` (16, 36)."""

    def evaluate(k: int) -> Tensor:
        finite = torch.tensor([[point**i for i in range(k)] for point in POINTS], dtype=torch.float64)
        return torch.cat([finite, torch.eye(k, dtype=torch.float64)[-1:]])

    b = torch.linalg.inv(evaluate(SIDE)).T
    scale = b.abs().where(b.abs() > 1e-9, torch.inf).amin(1, keepdim=True)  # whole numbers in B, as in the paper
    b, g, a = (b / scale).round(), scale * evaluate(3), evaluate(TILE).T
    return torch.kron(b, b), torch.kron(g, g), torch.kron(a, a)


MATRICES = {dtype: tuple(m.to(dtype) for m in _matrices()) for dtype in (torch.float32, torch.float64)}


def filters(weight: Tensor) -> Tensor:
    """A weight (O, C, 3, 3) transformed: (36, C, O)."""
    o, c = weight.shape[:2]
    return (MATRICES[weight.dtype][1] @ weight.permute(0, 2, 3, 1).reshape(o, 9, c)).permute(1, 2, 0)


def convolve(x: Tensor, filters: Tensor, bias: Tensor | None = None) -> Tensor:
    """The convolution, padded by 1, of pictures (B, C, H, W) with transformed filters (36, C, O): (B, O, H, W), channels last.

    Not differentiable: see :class:`Conv3x3`.
    """
    (batch, _, height, width), outputs = x.shape, filters.shape[2]
    rows, columns = _grid(x)
    out = x.new_empty(batch, rows, TILE, columns, TILE, outputs)
    for part, tiles in _tiles(x):
        y = MATRICES[x.dtype][2] @ torch.bmm(tiles.transpose(0, 1), filters).transpose(0, 1)
        y = y.view(-1, out[part].shape[1], columns, TILE, TILE, outputs).transpose(2, 3)
        out[part].copy_(y) if bias is None else torch.add(y, bias, out=out[part])
    return out.flatten(3, 4).flatten(1, 2)[:, :height, :width].permute(0, 3, 1, 2)


def weight_gradient(x: Tensor, gradient: Tensor) -> Tensor:
    """The gradient (O, C, 3, 3) of the weight, given the pictures (B, C, H, W) and the gradient (B, O, H, W) of the results.

    The transposes of what :func:`filters` and :func:`convolve` do, in reverse order.
    """
    outputs, channels = gradient.shape[1], x.shape[1]
    _, g, a = MATRICES[x.dtype]
    (height, width), (rows, columns) = x.shape[2:], _grid(x)
    pad = (0, 0, 0, TILE * columns - width, 0, TILE * rows - height)
    results = F.pad(gradient.permute(0, 2, 3, 1), pad).unflatten(2, (columns, TILE)).unflatten(1, (rows, TILE))
    summed = x.new_zeros(SIDE * SIDE, channels, outputs)
    for part, tiles in _tiles(x):
        back = a.T @ results[part].transpose(2, 3).reshape(-1, TILE * TILE, outputs)
        summed.baddbmm_(tiles.permute(1, 2, 0), back.transpose(0, 1))
    return (g.T @ summed.flatten(1)).view(3, 3, channels, outputs).permute(3, 2, 0, 1)


def _grid(x: Tensor) -> tuple[int, int]:
    """Rows and columns of tiles."""
    return -(-x.shape[2] // TILE), -(-x.shape[3] // TILE)


def _tiles(x: Tensor) -> Iterator[tuple[tuple[slice, slice], Tensor]]:
    """Transformed tiles (n, 36, C) of some samples, or of some rows of one, at a time, and which they are."""
    batch, channels, height, width = x.shape
    rows, columns = _grid(x)
    pad = (0, 0, 1, TILE * columns - width + 1, 1, TILE * rows - height + 1)
    places = F.pad(x.permute(0, 2, 3, 1), pad).unfold(1, SIDE, TILE).unfold(2, SIDE, TILE).permute(0, 1, 2, 4, 5, 3)
    samples, lines = max(1, ROWS // (rows * columns)), max(1, min(rows, ROWS // columns))
    for sample in range(0, batch, samples):
        for line in range(0, rows, lines):
            part = slice(sample, sample + samples), slice(line, line + lines)
            yield part, MATRICES[x.dtype][0] @ places[part].reshape(-1, SIDE * SIDE, channels)


class _Winograd(torch.autograd.Function):
    """:func:`convolve` with its gradients; the gradient by x is the convolution with the filters turned round."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return convolve(x, filters(weight), bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        if torch.is_grad_enabled():  # to be differentiated again
            sizes, pair = [weight.shape[0]], [1, 1]
            return torch.ops.aten.convolution_backward(
                gradient, x, weight, sizes, pair, pair, pair, False, [0, 0], 1, [of_x, of_weight, of_bias]
            )
        return (
            convolve(gradient, filters(weight.flip(2, 3).transpose(0, 1))) if of_x else None,
            weight_gradient(x, gradient) if of_weight else None,
            gradient.sum((0, 2, 3)) if of_bias else None,
        )


class Conv3x3(Prepackable, nn.Conv2d):
    """A 3x3 convolution padded by 1, in Winograd's way where that is the faster one.

    That is on a CPU, in single precision, for enough channels and places: from C to O channels it takes about 1/4 + 39 (1/C + 1/O)
    of the time of the ordinary one, besides making and reading the filters (``bench/nets.py convolution``).
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)

    @property
    def wide(self) -> bool:
        """Whether it has channels enough."""
        return 1 / self.in_channels + 1 / self.out_channels <= CHANNELS

    @property
    def packed_bytes(self) -> int:
        return 4 * SIDE * SIDE * self.in_channels * self.out_channels if self.wide and plain(self.weight) else 0

    def pack(self) -> Tensor:
        return filters(self.weight.detach())

    def pays(self, x: Tensor, packed: bool) -> bool:
        """Whether Winograd's way is the faster one for ``x``, with filters that are ``packed`` or made anew."""
        tiles = len(x) * math.prod(_grid(x))
        fits = self.wide and plain(x, self.weight) and tiles >= (FEWEST if packed else 2 * FEWEST)
        return fits and not special(x)

    def forward(self, x: Tensor) -> Tensor:
        gradient = asks_gradient(x, self.weight, self.bias)
        packed = None if gradient else self.packed
        if not self.pays(x, packed is not None):
            return super().forward(x)
        if gradient:
            return _Winograd.apply(x, self.weight, self.bias)  # pyright: ignore[reportReturnType]
        return convolve(x, filters(self.weight) if packed is None else packed, self.bias)
