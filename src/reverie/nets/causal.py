"""A causal transformer that denoises one vector under a text: the prior of unCLIP.

Ramesh et al., "Hierarchical text-conditional image generation with CLIP latents", 2022 (arXiv:2204.06125), section 2.2. The sequence is
the tokens of the text, its vector, the time, the noisy vector, and a query at the end, whose output is the estimate. Each token sees
itself and those before it, so the query sees all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.core.condition import entry_of
from reverie.core.errors import InputError
from reverie.nets.attention import Attending, head_norms
from reverie.nets.embeddings import TimeEmbedding
from reverie.nets.layers import FeedForward
from reverie.nets.network import Network, conditions

if TYPE_CHECKING:
    from reverie.core.condition import Cond

OTHERS = 4
"""Tokens behind the text: its vector, the time, the noisy vector, the query."""


class CausalAttention(Attending):
    """Attention of each token to itself and those before it, as far as they are real."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm_q, self.norm_k = head_norms(width // heads, True)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """(B, N, width), and ``real`` (B, N) bool -> (B, N, width)."""
        q, k, v = self.split(self.qkv(x), 3)
        n = x.shape[1]
        before = torch.ones(n, n, dtype=torch.bool, device=x.device).tril()
        seen = before & real[:, None, None, :] | torch.eye(n, dtype=torch.bool, device=x.device)
        out = F.scaled_dot_product_attention(self.norm_q(q), self.norm_k(k), v, attn_mask=seen)
        return self.out(out.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention, then a perceptron, each added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.mlp = CausalAttention(width, heads), FeedForward(width, 4 * width)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        x = x + self.attention(self.norm(x), real)
        return x + self.mlp(self.norm_mlp(x))


class CausalPrior(Network):
    """``net(x, time, cond)`` for vectors (B, dim), told the "vector" (B, dim) of a text and, as "text" (B, L, context), its tokens.

    Args:
        dim: numbers of a vector.
        context: features of a token of the text; 0 for a model that is told the text's vector only.
        length: the most tokens of a text.
        width: features of a token of the sequence (the paper's has 2,048).
        depth: blocks (the paper's has 24).
        heads: a divisor of the width.

    Raises:
        InputError: when the heads do not divide the width.
    """

    def __init__(
        self, dim: int, *, context: int = 0, length: int = 0, width: int = 256, depth: int = 4, heads: int = 4
    ) -> None:
        super().__init__()
        self.dim, self.context = dim, context
        self.conditions = conditions(vector=dim, context=context, length=length)
        self.time = TimeEmbedding(128, width)
        self.text = nn.Linear(context, width) if context else None
        self.vector, self.noisy, self.out = nn.Linear(dim, width), nn.Linear(dim, width), nn.Linear(width, dim)
        self.query = nn.Parameter(0.02 * torch.randn(width))
        self.places = nn.Parameter(0.02 * torch.randn(length + OTHERS, width))
        self.null_vector, self.null_text = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(1, max(1, context)))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, time: Tensor, cond: Cond | None = None) -> Tensor:
        """``(B, dim)`` and a time of order 1, () or (B,) -> ``(B, dim)``.

        Raises:
            InputError: for vectors of another length.
        """
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise InputError(f"The network was given {tuple(x.shape)}; expected vectors (batch, {self.dim}).")
        n = len(x)
        told = self.vector(entry_of(cond, "vector", self.null_vector, n).value.to(x.dtype))
        others = torch.stack([told, self.time(time.expand(n)), self.noisy(x), self.query.expand(n, -1)], dim=1)
        others = others + self.places[-OTHERS:]
        real = torch.ones(n, OTHERS, dtype=torch.bool, device=x.device)
        if self.text is None:
            return self.out(self.through_all(others, real)[:, -1])
        entry = entry_of(cond, "text", self.null_text, n)
        said = self.text(entry.value.to(x.dtype)) + self.places[: entry.value.shape[1]]
        mask = real.new_ones(said.shape[:2]) if entry.mask is None else entry.mask
        return self.out(self.through_all(torch.cat([said, others], dim=1), torch.cat([mask, real], dim=1))[:, -1])

    def through_all(self, sequence: Tensor, real: Tensor) -> Tensor:
        """(B, N, width) through all blocks; token i knows the real ones among 0 … i."""
        for block in self.blocks:
            sequence = self.through(block, sequence, real)
        return self.norm(sequence)
