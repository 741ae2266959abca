"""A small text encoder: a transformer on the bytes of a text, trained with the model that it tells what to draw.

Vaswani et al., "Attention Is All You Need", NeurIPS 2017, with normalisations first; on bytes: Xue et al., "ByT5", TACL 2022.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.core import spelling
from reverie.nets.config import TextConfig
from reverie.nets.uvit import Block


class TextEncoder(nn.Module):
    """Tokens of texts (B, L), see :mod:`reverie.core.spelling`, to features (B, L, width); what follows a text changes nothing.

    Args:
        config: its options.
        length: the most tokens of a text; of longer ones the first are read.

    Raises:
        InputError: when the heads do not divide the width.
    """

    def __init__(self, config: TextConfig, length: int) -> None:
        super().__init__()
        self.length, self.width = length, config.width
        self.embed = nn.ModuleDict(
            {"byte": nn.Embedding(spelling.VOCABULARY, config.width), "place": nn.Embedding(length, config.width)}
        )
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        for table in self.embed.children():
            nn.init.normal_(table.weight, std=0.5)  # pyright: ignore[reportArgumentType]

    def forward(
        self, tokens: Tensor, learned: Tensor | None = None, heard: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The features (B, L, width), of which the first of a text stands for all of it, and the mask (B, L), true at its tokens.

        ``learned`` (K, width) are the rows of tokens behind the vocabulary; ``heard`` (B, L) says which tokens are heard, by default all
        of the text.
        """
        tokens = tokens[:, : self.length]
        mask = tokens != spelling.PADDING if heard is None else heard[:, : self.length]
        table: Tensor = self.embed["byte"].weight  # pyright: ignore[reportAssignmentType]
        table = table if learned is None else torch.cat([table, learned.to(table)])
        x = F.embedding(tokens, table) + self.embed["place"](torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x), mask
