"""The mask generator: Mask2Former (Cheng et al., "Masked-attention mask transformer for universal image segmentation", CVPR 2022).

A pixel decoder lets the maps of three scales see each other by deformable attention; queries then look at them in turn, each only where
its mask of the layer before is (masked attention); every layer gives masks and an embedding of each (ODISE, section 3.3).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.nets.embeddings import grid_positions
from reverie.read.odise.deformable import Deformable, centers


class Proposal(NamedTuple):
    """Embeddings (B, Q, width) and mask logits (B, Q, H, W) of a layer."""

    embeddings: Tensor
    masks: Tensor


class PixelDecoder(nn.Module):
    """Maps of four scales, the finest first, to a map of mask features at the finest and a memory of the other three."""

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.levels = nn.Parameter(0.02 * torch.randn(3, width))
        self.attentions = nn.ModuleList(Deformable(width, heads, 3) for _ in range(layers))
        self.perceptrons = nn.ModuleList(_perceptron(width) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * layers))
        self.lateral, self.smooth = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Four maps (B, width, h, w) -> mask features (B, width, H, W), and three memories, the coarsest first."""
        finest, *rest = maps
        rest = rest[::-1]
        sizes = [(m.shape[2], m.shape[3]) for m in rest]
        x = torch.cat([m.flatten(2).transpose(1, 2) for m in rest], 1)
        codes = [positions(m) + level for m, level in zip(rest, self.levels, strict=True)]
        code, places = torch.cat(codes), centers(sizes, x)
        norms = iter(self.norms)
        for attention, perceptron in zip(self.attentions, self.perceptrons, strict=True):
            x = next(norms)(x + attention(x + code, places, x, sizes))
            x = next(norms)(x + perceptron(x))
        memories = [
            part.transpose(1, 2).unflatten(2, size)
            for part, size in zip(x.split([h * w for h, w in sizes], 1), sizes, strict=True)
        ]
        up = F.interpolate(memories[-1], finest.shape[2:], mode="bilinear")
        return self.smooth(F.relu(self.lateral(finest) + up)), memories


class QueryLayer(nn.Module):
    """Masked attention to a memory, attention among the queries, a perceptron."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.cross = nn.MultiheadAttention(width, heads, batch_first=True)
        self.self = nn.MultiheadAttention(width, heads, batch_first=True)
        self.perceptron = _perceptron(width, 8)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))

    def forward(self, x: Tensor, place: Tensor, memory: Tensor, code: Tensor, hidden: Tensor) -> Tensor:
        """Queries (B, Q, width) with codes (Q, width), memory (B, N, width) with codes (N, width), hidden (B·heads, Q, N) bool."""
        seen = self.cross(x + place, memory + code, memory, attn_mask=hidden, need_weights=False)[0]
        x = self.norms[0](x + seen)
        x = self.norms[1](x + self.self(x + place, x + place, x, need_weights=False)[0])
        return self.norms[2](x + self.perceptron(x))


class MaskGenerator(nn.Module):
    """Four maps of ``width`` channels, the finest first, to ``queries`` masks and their embeddings.

    Args:
        width: features.
        heads: of attention.
        queries: Q.
        layers: of queries; they go round the three scales, so a multiple of three.
        pixel_layers: of the pixel decoder.
    """

    def __init__(
        self, width: int = 256, heads: int = 8, queries: int = 100, layers: int = 9, pixel_layers: int = 6
    ) -> None:
        super().__init__()
        self.heads = heads
        self.pixels = PixelDecoder(width, heads, pixel_layers)
        self.queries, self.places = (nn.Parameter(torch.randn(queries, width)) for _ in range(2))
        self.levels = nn.Parameter(0.02 * torch.randn(3, width))
        self.layers = nn.ModuleList(QueryLayer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.mask = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
        )
        self.pooled = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width))
        self.embed = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
        )  # fmt: skip

    def forward(self, maps: list[Tensor]) -> list[Proposal]:
        """A proposal before the first layer and after each; the last is the answer."""
        features, memories = self.pixels(maps)
        x = self.queries.expand(len(features), -1, -1)
        proposals = [self.propose(x, features)]
        for i, layer in enumerate(self.layers):
            memory = memories[i % 3]
            code = positions(memory) + self.levels[i % 3]
            hidden = self.hidden(proposals[-1].masks, memory.shape[2:])
            x = layer(x, self.places, memory.flatten(2).transpose(1, 2), code, hidden)
            proposals.append(self.propose(x, features))
        return proposals

    def propose(self, x: Tensor, features: Tensor) -> Proposal:
        x = self.norm(x)
        masks = torch.einsum("bqc,bchw->bqhw", self.mask(x), features)
        return Proposal(self.name(x, masks, features), masks)

    def name(self, x: Tensor, masks: Tensor, features: Tensor) -> Tensor:
        """``MLP(LN(query + Linear(LN(mean of the mask features inside the mask))))``: the embedding that is compared with words."""
        return self.embed(x + self.pooled(inside(features, masks.detach() > 0.0)))

    def hidden(self, masks: Tensor, size: torch.Size) -> Tensor:
        """What each query does not look at; one whose mask is empty looks everywhere."""
        hidden = F.interpolate(masks.detach(), size, mode="bilinear").flatten(2) < 0.0
        hidden = hidden & ~hidden.all(-1, keepdim=True)
        return hidden.repeat_interleave(self.heads, 0)


def inside(features: Tensor, masks: Tensor) -> Tensor:
    """The mean of maps (B, C, H, W) inside of masks (B, Q, H, W) bool: (B, Q, C), zero where a mask is empty."""
    weight = masks.to(features)
    return torch.einsum("bqhw,bchw->bqc", weight, features) / weight.sum((2, 3)).clamp(min=1.0)[..., None]


def positions(m: Tensor) -> Tensor:
    """Codes (h·w, C) of the places of a map."""
    return grid_positions(m.shape[2], m.shape[3], m.shape[1]).to(m)


def _perceptron(width: int, wider: int = 4) -> nn.Module:
    return nn.Sequential(nn.Linear(width, wider * width), nn.ReLU(), nn.Linear(wider * width, width))
