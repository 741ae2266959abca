"""A transformer over tiles: a picture is a short sequence of small squares, each from those before it.

What a tile is, is either a choice from a codebook of typical tiles (van den Oord et al. 2017, "Neural Discrete Representation Learning",
arXiv:1711.00937, with k-means for the codebook): then it draws sharply and has no likelihood of pixels. Or a token of a VQ-VAE, as there.
Or all levels of the tile together from a mixture of logistics (:mod:`reverie.families.mixture`): then the likelihood is exact.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.core.batch import Dataset
from reverie.core.condition import Cond
from reverie.core.errors import InputError
from reverie.core.noise import normals
from reverie.core.progress import track
from reverie.families.autoregressive import CausalNet, Chain
from reverie.families.layout import Layout, value
from reverie.families.mixture import LogisticMixture
from reverie.families.transformer import Cache, CausalTransformer, Told
from reverie.spaces.vq import VQ

ROUNDS = 30
"""Of k-means."""
TILES = 200_000
"""That a codebook is fitted to, at most."""


class Tiles(CausalNet):
    """What both kinds share: token i is told the tile before it, its place and the class, and gives features.

    Args:
        layout: of the tiles.
        classes: that it is told, if any.
        width, depth, heads, dropout: of the transformer.
        values: numbers that stand for a tile; its levels by default.
        context: features of a token of the text that it attends to; 0 for none.
    """

    def __init__(
        self,
        layout: Layout,
        classes: int | None,
        width: int,
        depth: int,
        heads: int,
        dropout: float,
        values: int | None = None,
        context: int = 0,
    ) -> None:
        super().__init__()
        self.layout = layout
        self.count = layout.length // layout.values
        self.kept = Cache.size(width, depth, self.count)
        self.embed = nn.Linear(values or layout.values, width)
        self.start = nn.Parameter(0.02 * torch.randn(width))
        self.conditioning = Told(layout.grid, classes, width)
        self.transformer = CausalTransformer(width, depth, heads, dropout, context)

    def features(self, tiles: Tensor, cond: Cond | None) -> Tensor:
        """The first N tiles (B, N, values) in [−1, 1] -> (B, N, width), the i-th from those before tile i."""
        start = self.start.expand(len(tiles), 1, -1)
        before = torch.cat([start, self.embed(tiles[:, :-1])], 1)
        return self.transformer(before + self.conditioning(cond, len(tiles))[:, : tiles.shape[1]], cond=cond)

    def step(self, before: Tensor, told: Tensor, cache: Cache, cond: Cond | None) -> Tensor:
        """The features (n, width) of the next tile, from the token before it."""
        return self.transformer((before + told)[:, None], cache, cond)[:, 0]


class MixtureTiles(Tiles):
    """All levels of a tile from a mixture of logistics: exact."""

    def __init__(
        self, layout: Layout, classes: int | None, width: int, depth: int, heads: int, dropout: float, components: int
    ) -> None:
        super().__init__(layout, classes, width, depth, heads, dropout)
        self.length, self.choices = layout.length, layout.levels
        self.out = LogisticMixture(width, layout.values, components, layout.levels)

    def log_prob(self, tokens: Tensor, cond: Cond | None) -> Tensor:
        levels = tokens.unflatten(1, (-1, self.layout.values))
        tiles = value(levels, self.choices, self.start.dtype)
        return self.out.log_prob(self.features(tiles, cond), levels)

    def chain(self, n: int, cond: Cond | None) -> Chain:
        told, cache = self.conditioning(cond, n), Cache(self.count)
        before = self.start.expand(n, -1)
        for i in range(self.count):
            levels = yield from self.out.chain(self.step(before, told[:, i], cache, cond))
            before = self.embed(value(levels, self.choices, self.start.dtype))


class CodebookTiles(Tiles):
    """A tile is one of a codebook (K, values) of tiles in [−1, 1]: a choice by softmax."""

    def __init__(
        self,
        layout: Layout,
        classes: int | None,
        width: int,
        depth: int,
        heads: int,
        dropout: float,
        codebook: Tensor,
        context: int = 0,
    ) -> None:
        super().__init__(layout, classes, width, depth, heads, dropout, codebook.shape[1], context)
        self.length, self.choices = self.count, len(codebook)
        self.register_buffer("codebook", codebook)
        self.codebook: Tensor
        self.out = nn.Linear(width, self.choices)

    @property
    def exact(self) -> bool:
        return False

    def tokens(self, x: Tensor) -> Tensor:
        """The nearest entry of the codebook for each tile: (B, C, H, W) -> (B, N)."""
        return nearest(tiles_of(x, self.layout).to(self.codebook), self.codebook)

    def picture(self, tokens: Tensor) -> Tensor:
        levels = ((self.codebook[tokens] + 1.0) * (0.5 * (self.layout.levels - 1))).round().long()
        return self.layout.picture(levels.flatten(1))

    def log_prob(self, tokens: Tensor, cond: Cond | None) -> Tensor:
        logits = self.out(self.features(self.codebook[tokens], cond))
        return -F.cross_entropy(logits.transpose(1, 2), tokens, reduction="none")

    def chain(self, n: int, cond: Cond | None) -> Chain:
        told, cache = self.conditioning(cond, n), Cache(self.length)
        before = self.start.expand(n, -1)
        for i in range(self.length):
            code = yield self.out(self.step(before, told[:, i], cache, cond)).log_softmax(-1)
            before = self.embed(self.codebook[code])


class SpaceTiles(CodebookTiles):
    """A tile is a token of a space: a choice among its codes, each told as the vector that it is."""

    def __init__(
        self,
        layout: Layout,
        classes: int | None,
        width: int,
        depth: int,
        heads: int,
        dropout: float,
        space: VQ,
        context: int = 0,
    ) -> None:
        super().__init__(layout, classes, width, depth, heads, dropout, space.codebook.codes.clone(), context)
        self.space = space

    def tokens(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in [−1, 1] -> (B, N), the numbers of their codes row by row."""
        return self.space.tokens(x.to(self.codebook.device))

    def picture(self, tokens: Tensor) -> Tensor:
        return self.space.from_tokens(tokens, self.layout.shape).clamp(-1.0, 1.0)


def tiles_of(x: Tensor, layout: Layout) -> Tensor:
    """The tiles of pictures (B, C, H, W), (B, N, values) in [−1, 1]."""
    return value(layout.tokens(x), layout.levels, torch.float32).unflatten(1, (-1, layout.values))


def nearest(tiles: Tensor, codebook: Tensor) -> Tensor:
    """Numbers of the nearest entries: (…, values) -> (…)."""
    return (codebook.square().sum(1) - 2.0 * tiles @ codebook.T).argmin(-1)


def fit_codebook(data: Dataset, layout: Layout, size: int, seed: int) -> Tensor:
    """Centres (size, values) of the tiles of pictures, by k-means (Lloyd 1982) from tiles drawn at random.

    Raises:
        InputError: when there are fewer different tiles.
    """
    each = layout.length // layout.values
    count = max(1, min(len(data), TILES // each))
    rows = torch.linspace(0, len(data) - 1, count).long()
    tiles = torch.cat([tiles_of(data.batch(part).x, layout).flatten(0, 1) for part in rows.split(500)])
    different = tiles.unique(dim=0)
    if size > len(different):
        raise InputError(
            f"a codebook of {size:,} tiles is larger than the data, which has {len(different):,} different ones: choose fewer --codes"
        )
    order = torch.from_numpy(normals(f"codebook/{seed}", len(different))).argsort()
    codebook = different[order[:size]]
    for _ in track(range(ROUNDS), "codebook", ROUNDS, "rounds"):
        code = torch.cat([nearest(part, codebook) for part in tiles.split(20_000)])
        sums = torch.zeros_like(codebook).index_add_(0, code, tiles)
        counts = torch.bincount(code, minlength=size)[:, None]
        codebook = torch.where(counts > 0, sums / counts.clamp(min=1), codebook)
    return codebook
