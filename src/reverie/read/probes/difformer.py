"""DifFormer: attention that learns which blocks and times to listen to.

Mukhopadhyay et al., "Do text-free diffusion models learn discriminative visual representations?", ECCV 2024 (arXiv:2311.17921).
The maps of several blocks become tokens of one sequence, a learned token attends to all of them, and what it has gathered at each time is
read by one linear layer. The layers before the sequence are shared between the times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.read.probes.heads import Transformer
from reverie.read.store import Cell


class DifFormer(nn.Module):
    """A head on the maps of several blocks and times.

    Args:
        shapes: (channels, height, width) of each block's map.
        times: the noise levels the maps come from.
        classes: how many.
        width: of a token, 1024 in the paper.
        side: maps are pooled to at most this many places a side, 16 in the paper.
        heads, depth: of the attention.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, int, int]],
        times: Sequence[float],
        classes: int,
        width: int = 1024,
        side: int = 16,
        heads: int = 8,
        depth: int = 2,
    ) -> None:
        super().__init__()
        self.sites, self.times = list(shapes), list(times)
        self.sizes = {site: (min(h, side), min(w, side)) for site, (_, h, w) in shapes.items()}
        self.norms = nn.ModuleList(nn.LayerNorm([shapes[s][0], *self.sizes[s]]) for s in self.sites)
        self.projects = nn.ModuleList(nn.Conv2d(shapes[s][0], width, 1) for s in self.sites)
        self.transformer = Transformer(width, depth, heads)
        self.out = nn.Linear(width * len(self.times), classes)

    def forward(self, maps: Mapping[Cell, Tensor]) -> Tensor:
        """Maps (B, C, h, w) by (site, time) -> (B, classes)."""
        return self.out(torch.cat([self.gather({s: maps[s, t] for s in self.sites}) for t in self.times], dim=1))

    def gather(self, maps: Mapping[str, Tensor]) -> Tensor:
        """The token (B, width) that has attended to the maps of one time."""
        tokens = []
        for site, norm, project in zip(self.sites, self.norms, self.projects, strict=True):
            value = F.adaptive_avg_pool2d(maps[site], self.sizes[site])
            tokens.append(project(norm(value)).flatten(2).transpose(1, 2))
        return self.transformer(torch.cat(tokens, dim=1))
