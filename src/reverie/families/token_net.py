"""A transformer of tokens that is told a class or a text: what MaskGIT and VAR predict with.

Blocks of attention and a perceptron, scaled, shifted and gated by the class (Peebles & Xie 2023, adaLN-Zero), as VAR has them; to a text
each block attends in between (Chang et al. 2023, "Muse", figure 3).
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.core.batch import DataSpec
from reverie.core.condition import Cond, Entry
from reverie.core.errors import InputError
from reverie.diffusion.building import space_of
from reverie.nets.attention import Attention
from reverie.nets.embeddings import LabelEmbedding
from reverie.nets.layers import FeedForward, modulate, plain_norm, zeroed
from reverie.nets.network import tokens
from reverie.nets.prepacked import Linear
from reverie.spaces.config import SpaceConfig
from reverie.spaces.vq import VQ

V = TypeVar("V", bound=VQ)


class Block(nn.Module):
    """One layer; ``mask`` (L, L) bool says which token (row) sees which, all do without."""

    def __init__(self, width: int, heads: int, dropout: float, context: int) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm_cross = plain_norm(width) if context else None
        self.cross = Attention(width, heads, context=context) if context else None
        if self.cross is not None:
            zeroed(self.cross.out)
        self.norm, self.norm_after = plain_norm(width), plain_norm(width)
        self.qkv, self.out = Linear(width, 3 * width), Linear(width, width)
        self.feed = FeedForward(width, 4 * width)
        self.modulation = zeroed(Linear(width, 6 * width))

    def forward(self, x: Tensor, condition: Tensor, mask: Tensor | None, said: Entry | None) -> Tensor:
        shift, scale, gate, shift_after, scale_after, gate_after = self.modulation(condition)[:, None].chunk(6, dim=-1)
        h = self.qkv(modulate(self.norm(x), shift, scale)).unflatten(-1, (3, self.heads, -1))
        q, k, v = h.permute(2, 0, 3, 1, 4).unbind(0)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + gate * self._kept(self.out(seen.transpose(1, 2).flatten(2)))
        if self.cross is not None and self.norm_cross is not None and said is not None:
            x = x + self._kept(self.cross(self.norm_cross(x), said.value, said.mask))
        return x + gate_after * self._kept(self.feed(modulate(self.norm_after(x), shift_after, scale_after)))

    def _kept(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class TokenNet(nn.Module):
    """Vectors (B, L, width) and conditions to logits (B, L, codes), by :meth:`predict`; what goes in is for each model to say.

    Args:
        codes: what is predicted: which of so many.
        length: L at most; every place has a learned position.
        classes: 0 for none; besides, there is a null class for guidance.
        width, depth, heads: of the transformer.
        dropout: of what each half of a block adds.
        context: features of a token of the text that it attends to; 0 for none.

    Raises:
        InputError: when the heads do not divide the width.
    """

    def __init__(
        self,
        codes: int,
        length: int,
        classes: int,
        width: int,
        depth: int,
        heads: int,
        dropout: float = 0.0,
        context: int = 0,
    ) -> None:
        super().__init__()
        if width % heads:
            raise InputError(f"{heads} heads do not divide the width {width}: choose a divisor of it")
        self.context = context
        self.conditioning = LabelEmbedding(classes, width)
        self.embed = nn.ModuleDict({"place": nn.Embedding(length, width)})
        self.blocks = nn.ModuleList(Block(width, heads, dropout, context) for _ in range(depth))
        self.norm, self.modulation = plain_norm(width), zeroed(Linear(width, 2 * width))
        self.out = Linear(width, codes)
        for outer in (self.embed["place"], self.out):
            nn.init.normal_(outer.weight, std=0.02)  # pyright: ignore[reportArgumentType]

    def predict(self, h: Tensor, cond: Cond | None, mask: Tensor | None = None) -> Tensor:
        """Of vectors (B, L, width) and what B samples are told."""
        condition = F.silu(self.conditioning(cond, len(h)))
        said = tokens(cond, self.context, h) if self.context else None
        h = h + self.embed["place"].weight[: h.shape[1]]  # pyright: ignore[reportIndexIssue]
        for block in self.blocks:
            h = block(h, condition, mask, said)
        shift, scale = self.modulation(condition)[:, None].chunk(2, dim=-1)
        return self.out(modulate(self.norm(h), shift, scale))


def guided(logits: Tensor, scale: float) -> Tensor:
    """Of logits (2B, L, K), those told something before those told nothing: ``l_null + scale·(l_told − l_null)``, (B, L, K)."""
    told, null = logits.chunk(2)
    return null + scale * (told - null)


def categorical(logits: Tensor, noise: Tensor) -> Tensor:
    """One of K for each place, (B, L) int64, by the inverse of the distribution at what normal ``noise`` (B, L) says of a uniform."""
    reach = logits.float().softmax(-1).cumsum(-1)
    u = torch.special.ndtr(noise.to(reach))[..., None] * reach[..., -1:]
    return torch.searchsorted(reach, u.clamp(max=1.0 - 1e-6), right=True)[..., 0].clamp(max=logits.shape[-1] - 1)


def classes_of(spec: DataSpec) -> int:
    """How many classes the data tells; 0 for none."""
    return len(spec.classes) if "label" in spec.conditions else 0


def tokenizer(config: SpaceConfig, spec: DataSpec, folder: Path | None, kind: type[V]) -> V:
    """The space of tokens in a run's folder; without, one of the same shape.

    Raises:
        InputError: when the space is of another kind, or does not fit the data.
    """
    space = space_of(config, spec, folder)
    if type(space) is not kind:
        of = f"{kind.__name__} ({kind.name})"
        raise InputError(
            f"this model is one of the tokens of a {of}: got a {type(space).__name__}. Use --space.name {kind.name}"
        )
    space.code_shape(spec.shape)
    return space.requires_grad_(False).eval()
