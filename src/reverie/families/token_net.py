"""A transformer of tokens that is told a class: what MaskGIT and VAR predict with.

Blocks of attention and a perceptron, scaled, shifted and gated by the class (Peebles & Xie 2023, adaLN-Zero), as VAR has them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.core.batch import DataSpec
from reverie.core.errors import InputError
from reverie.diffusion.building import space_of
from reverie.nets.embeddings import LabelTable
from reverie.nets.layers import FeedForward, modulate, plain_norm, zeroed
from reverie.nets.prepacked import Linear
from reverie.spaces.config import SpaceConfig
from reverie.spaces.vq import VQ

V = TypeVar("V", bound=VQ)


class Block(nn.Module):
    """One layer; ``mask`` (L, L) bool says which token (row) sees which, all do without."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm, self.norm_after = plain_norm(width), plain_norm(width)
        self.qkv, self.out = Linear(width, 3 * width), Linear(width, width)
        self.feed = FeedForward(width, 4 * width)
        self.modulation = zeroed(Linear(width, 6 * width))

    def forward(self, x: Tensor, condition: Tensor, mask: Tensor | None) -> Tensor:
        shift, scale, gate, shift_after, scale_after, gate_after = self.modulation(condition)[:, None].chunk(6, dim=-1)
        h = self.qkv(modulate(self.norm(x), shift, scale)).unflatten(-1, (3, self.heads, -1))
        q, k, v = h.permute(2, 0, 3, 1, 4).unbind(0)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + gate * self._kept(self.out(seen.transpose(1, 2).flatten(2)))
        return x + gate_after * self._kept(self.feed(modulate(self.norm_after(x), shift_after, scale_after)))

    def _kept(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class TokenNet(nn.Module):
    """Vectors (B, L, width) and labels to logits (B, L, codes), by :meth:`predict`; what goes in is for each model to say.

    Args:
        codes: what is predicted: which of so many.
        length: L at most; every place has a learned position.
        classes: 0 for none; besides, there is a null class for guidance.
        width, depth, heads: of the transformer.
        dropout: of what each half of a block adds.

    Raises:
        InputError: when the heads do not divide the width.
    """

    def __init__(
        self, codes: int, length: int, classes: int, width: int, depth: int, heads: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if width % heads:
            raise InputError(f"{heads} heads do not divide the width {width}: choose a divisor of it")
        self.conditioning = LabelTable(classes + 1, width)
        self.embed = nn.ModuleDict({"place": nn.Embedding(length, width)})
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))
        self.norm, self.modulation = plain_norm(width), zeroed(Linear(width, 2 * width))
        self.out = Linear(width, codes)
        for outer in (self.conditioning, self.embed["place"], self.out):
            nn.init.normal_(outer.weight, std=0.02)  # pyright: ignore[reportArgumentType]

    @property
    def null(self) -> int:
        """What stands for a label that is absent."""
        return self.conditioning.null

    def predict(self, h: Tensor, label: Tensor, mask: Tensor | None = None) -> Tensor:
        """Of vectors (B, L, width) and labels (B,), classes or :attr:`null`."""
        condition = F.silu(self.conditioning(label))
        h = h + self.embed["place"].weight[: h.shape[1]]  # pyright: ignore[reportIndexIssue]
        for block in self.blocks:
            h = block(h, condition, mask)
        shift, scale = self.modulation(condition)[:, None].chunk(2, dim=-1)
        return self.out(modulate(self.norm(h), shift, scale))


def guided(logits: Tensor, scale: float) -> Tensor:
    """Of logits (2B, L, K), those with a label before those without: ``l_null + scale·(l_label − l_null)``, (B, L, K)."""
    told, null = logits.chunk(2)
    return null + scale * (told - null)


def categorical(logits: Tensor, noise: Tensor) -> Tensor:
    """One of K for each place, (B, L) int64, by the inverse of the distribution at what normal ``noise`` (B, L) says of a uniform."""
    reach = logits.float().softmax(-1).cumsum(-1)
    u = torch.special.ndtr(noise.to(reach))[..., None] * reach[..., -1:]
    return torch.searchsorted(reach, u.clamp(max=1.0 - 1e-6), right=True)[..., 0].clamp(max=logits.shape[-1] - 1)


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
