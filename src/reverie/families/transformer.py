"""A causal transformer, of whole sequences or of one token at a time with a cache of keys and values.

Vaswani et al. 2017, "Attention Is All You Need" (arXiv:1706.03762), in today's form: normalised before each half of a block (Radford et al.
2019), queries and keys normalised (Dehghani et al. 2023). It may be the decoder of that paper: then each block also attends to a text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.core.condition import Cond, Entry
from reverie.nets.attention import Attending, head_norms
from reverie.nets.embeddings import LabelEmbedding
from reverie.nets.layers import zeroed
from reverie.nets.network import tokens


class Cache:
    """The keys and values of each attention for the tokens so far, and for those of a text.

    Args:
        length: tokens in all.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self.seen: dict[nn.Module, tuple[int, Tensor, Tensor]] = {}
        self.said: dict[nn.Module, tuple[Tensor, ...]] = {}

    @staticmethod
    def size(width: int, depth: int, length: int) -> int:
        """Numbers that it keeps of a sequence."""
        return 2 * width * depth * length

    def extend(self, attention: nn.Module, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, heads, 1, d) of a new token, kept -> those of all tokens so far, (B, heads, N, d)."""
        size = (*k.shape[:2], self.length, k.shape[3])
        count, keys, values = self.seen.get(attention) or (0, k.new_empty(size), v.new_empty(size))
        keys[:, :, count], values[:, :, count] = k[:, :, 0], v[:, :, 0]
        self.seen[attention] = count + 1, keys, values
        return keys[:, :, : count + 1], values[:, :, : count + 1]

    def once(self, attention: nn.Module, make: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """The keys and values of the text, made when they are first asked for."""
        if attention not in self.said:
            self.said[attention] = make()
        return self.said[attention]


class CausalAttention(Attending):
    """Each token attends to itself and those before it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm_q, self.norm_k = head_norms(width // heads, True)

    def forward(self, x: Tensor, cache: Cache | None) -> Tensor:
        q, k, v = self.split(self.qkv(x), 3)
        q, k = self.norm_q(q), self.norm_k(k)
        if cache is not None:
            k, v = cache.extend(self, k, v)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=cache is None)
        return self.out(out.transpose(1, 2).flatten(2))


class TextAttention(Attending):
    """Each token attends to all those of a text; starts by adding nothing."""

    def __init__(self, width: int, heads: int, context: int) -> None:
        super().__init__(width, heads)
        self.q, self.kv, self.out = (
            nn.Linear(width, width),
            nn.Linear(context, 2 * width),
            zeroed(nn.Linear(width, width)),
        )
        self.norm_q, self.norm_k = head_norms(width // heads, True)

    def forward(self, x: Tensor, said: Entry, cache: Cache | None) -> Tensor:
        def make() -> tuple[Tensor, ...]:
            k, v = self.split(self.kv(said.value), 2)
            return self.norm_k(k), v

        k, v = make() if cache is None else cache.once(self, make)
        (q,) = self.split(self.q(x), 1)
        return self.out(self.attend(self.norm_q(q), k, v, said.mask, cross=True))


class Block(nn.Module):
    """Attention, that to a text if there is one, then a perceptron, each added to its input."""

    def __init__(self, width: int, heads: int, dropout: float, context: int) -> None:
        super().__init__()
        self.dropout = dropout
        self.norm, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = CausalAttention(width, heads)
        self.norm_cross = nn.LayerNorm(width) if context else None
        self.cross = TextAttention(width, heads, context) if context else None
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, cache: Cache | None, said: Entry | None) -> Tensor:
        x = x + F.dropout(self.attention(self.norm(x), cache), self.dropout, self.training)
        if self.cross is not None and self.norm_cross is not None:
            x = x + F.dropout(self.cross(self.norm_cross(x), said, cache), self.dropout, self.training)
        return x + F.dropout(self.mlp(self.norm_mlp(x)), self.dropout, self.training)


class CausalTransformer(nn.Module):
    """(B, N, width) -> (B, N, width), where token i knows tokens 0 … i; with a cache (B, 1, width) -> (B, 1, width), the next token.

    Args:
        width: features of a token.
        depth: blocks.
        heads: of attention, a divisor of the width.
        dropout: of what each half of a block adds.
        context: features of a token of the text that each block attends to; 0 for none.

    Raises:
        InputError: when the heads do not divide the width.
    """

    def __init__(self, width: int, depth: int, heads: int, dropout: float, context: int = 0) -> None:
        super().__init__()
        self.context = context
        self.blocks = nn.ModuleList(Block(width, heads, dropout, context) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, cache: Cache | None = None, cond: Cond | None = None) -> Tensor:
        said = tokens(cond, self.context, x) if self.context else None
        for block in self.blocks:
            x = block(x, cache, said)
        return self.norm(x)


class Told(nn.Module):
    """Where each token is, by a learned code for each coordinate (Child et al. 2019), and which class is drawn.

    Args:
        sides: of the grid of tokens, such as rows and columns.
        classes: that there are, if any.
        width: features.
    """

    def __init__(self, sides: Sequence[int], classes: int | None, width: int) -> None:
        super().__init__()
        self.place = nn.ParameterList(0.02 * torch.randn(side, width) for side in sides)
        self.label = None if classes is None else LabelEmbedding(classes, width)

    def forward(self, cond: Cond | None, n: int) -> Tensor:
        """(n, tokens in raster order, width)."""
        first, *others = self.place
        place = first
        for other in others:
            place = (place[:, None] + other).flatten(0, 1)
        place = place.expand(n, -1, -1)
        return place if self.label is None else place + self.label(cond, n)[:, None]
