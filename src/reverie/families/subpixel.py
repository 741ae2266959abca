"""A transformer over sub-pixels: each 8-bit value a choice of 256, in raster order (Chen et al. 2020, "Generative Pretraining from Pixels";
Child et al. 2019, arXiv:1904.10509, whose position codes, a row, a column and a colour, these are)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.core.condition import Cond
from reverie.families.autoregressive import CausalNet, Chain
from reverie.families.layout import Layout
from reverie.families.transformer import Cache, CausalTransformer, Told


class SubPixels(CausalNet):
    """Token i is told the level before it, where it is, and the class; it gives the logits of its own level.

    Args:
        layout: of patch 1.
        classes: that it is told, if any.
        width, depth, heads, dropout: of the transformer.
    """

    def __init__(self, layout: Layout, classes: int | None, width: int, depth: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.layout, self.length, self.choices = layout, layout.length, layout.levels
        self.kept = Cache.size(width, depth, self.length)
        colours, *sides = layout.shape
        self.embed = nn.Embedding(self.choices + 1, width)  # the last one stands before the first sub-pixel
        self.conditioning = Told((*sides, colours), classes, width)
        self.transformer = CausalTransformer(width, depth, heads, dropout)
        self.out = nn.Linear(width, self.choices)

    def log_prob(self, tokens: Tensor, cond: Cond | None) -> Tensor:
        return -F.cross_entropy(self(tokens, cond).transpose(1, 2), tokens, reduction="none")

    def forward(self, tokens: Tensor, cond: Cond | None) -> Tensor:
        """The first N levels (B, N) -> logits (B, N, choices) of each after those before it."""
        before = self.embed(F.pad(tokens[:, :-1], (1, 0), value=self.choices))
        return self.out(self.transformer(before + self.conditioning(cond, len(tokens))[:, : tokens.shape[1]]))

    def chain(self, n: int, cond: Cond | None) -> Chain:
        told, cache = self.conditioning(cond, n), Cache(self.length)
        before = torch.full((n,), self.choices, device=told.device)
        for i in range(self.length):
            token = self.embed(before) + told[:, i]
            before = yield self.out(self.transformer(token[:, None], cache)[:, 0]).log_softmax(-1)
