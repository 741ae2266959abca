"""Attention of every network: of tokens among themselves, towards a context, or of two streams as one sequence.

Vaswani et al., "Attention Is All You Need", NeurIPS 2017; joint attention: Esser et al., "Scaling Rectified Flow
Transformers", ICML 2024, figure 2.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.core.errors import InputError
from reverie.nets.prepacked import Linear

Product = Callable[[Tensor, Tensor, Tensor], Tensor]
"""q, k and v -> ``softmax(q·kᵀ/√d)·v``, all (B, heads, N, d)."""
Hook = Callable[..., Tensor]
"""``hook(product, q, k, v, mask=, scale=, cross=, streams=) -> out`` in place of ``product(q, k, v)``."""


class Attending(nn.Module):
    """What all attention shares: the product, and what may take its place.

    Attributes:
        hook: in the copy of a network that a tapped call runs (:mod:`reverie.nets.taps`), what takes the place of the product.
    """

    hook: Hook | None = None

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise InputError(f"{heads} attention heads do not divide {width} features; choose a divisor of the width.")
        self.heads = heads

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None = None,
        cross: bool = False,
        streams: tuple[int, ...] = (),
    ) -> Tensor:
        """``softmax(q·kᵀ/√d)·v``.

        Fused where the device has it; under ``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)`` it can be differentiated twice and
        forward (the fused kernel of the CPU cannot).

        Args:
            q: (B, heads, N, d).
            k: (B, heads, M, d); ``v`` alike.
            mask: (B, M) bool, true where a key is real.
            cross: whether keys and values come from elsewhere than the queries.
            streams: lengths of the sequences that were joined into one.

        Returns:
            (B, N, heads * d).
        """
        mask = None if mask is None else mask[:, None, None, :]

        def product(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

        if self.hook is None:
            out = product(q, k, v)
        else:
            out = self.hook(product, q, k, v, mask=mask, scale=None, cross=cross, streams=streams)
        return out.transpose(1, 2).flatten(2)

    def split(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """(B, N, parts * width) -> ``parts`` tensors (B, heads, N, d)."""
        return x.unflatten(-1, (parts, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


class Attention(Attending):
    """Attention of tokens ``(B, N, width)`` among themselves, or towards tokens ``(B, M, context)``.

    Args:
        width: features of the tokens.
        heads: a divisor of the width.
        context: features of the context's tokens; None for self-attention.
        bias: of the linear maps to q, k and v.
        qk_norm: RMS normalisation of q and k, over the features of a head (Dehghani et al. 2023).
    """

    def __init__(
        self, width: int, heads: int, context: int | None = None, bias: bool = True, qk_norm: bool = False
    ) -> None:
        super().__init__(width, heads)
        if context is None:
            self.qkv = Linear(width, 3 * width, bias=bias)
        else:
            self.q = Linear(width, width, bias=bias)
            self.kv = Linear(context, 2 * width, bias=bias)
        self.cross = context is not None
        self.norm_q, self.norm_k = head_norms(width // heads, qk_norm)
        self.out = Linear(width, width)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(B, N, width) -> (B, N, width); ``context`` (B, M, context) and ``mask`` (B, M) bool, true where a token is real."""
        if self.cross:
            (q,), (k, v) = self.split(self.q(x), 1), self.split(self.kv(context), 2)
        else:
            q, k, v = self.split(self.qkv(x), 3)
        return self.out(self.attend(self.norm_q(q), self.norm_k(k), v, mask, self.cross))


class JointAttention(Attending):
    """Attention of two streams ``(B, N, width)`` and ``(B, M, width)`` as one sequence, each with linear maps of its own.

    Args:
        width: features of the tokens of both.
        heads: a divisor of the width.
        qk_norm: RMS normalisation of q and k, over the features of a head.
        last: the second stream is only read: it has no output.
    """

    def __init__(self, width: int, heads: int, qk_norm: bool = False, last: bool = False) -> None:
        super().__init__(width, heads)
        self.qkv, self.qkv_context = Linear(width, 3 * width), Linear(width, 3 * width)
        self.norm_q, self.norm_k = head_norms(width // heads, qk_norm)
        self.norm_q_context, self.norm_k_context = head_norms(width // heads, qk_norm)
        self.out = Linear(width, width)
        self.out_context = None if last else Linear(width, width)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Both streams after attention; ``mask`` (B, M) bool is true where a token of the second is real."""
        q, k, v = self.split(self.qkv(x), 3)
        a, b, w = self.split(self.qkv_context(context), 3)
        q = torch.cat([self.norm_q(q), self.norm_q_context(a)], dim=2)
        k = torch.cat([self.norm_k(k), self.norm_k_context(b)], dim=2)
        v = torch.cat([v, w], dim=2)
        n, m = x.shape[1], context.shape[1]
        if mask is not None:
            mask = torch.cat([mask.new_ones(len(mask), n), mask], dim=1)
        x, context = self.attend(q, k, v, mask, streams=(n, m)).split([n, m], dim=1)
        return self.out(x), None if self.out_context is None else self.out_context(context)


def head_norms(width: int, norm: bool) -> tuple[nn.Module, nn.Module]:
    """Normalisations of q and k (B, heads, N, width): RMS, or none."""
    return (nn.RMSNorm(width, eps=1e-6), nn.RMSNorm(width, eps=1e-6)) if norm else (nn.Identity(), nn.Identity())
