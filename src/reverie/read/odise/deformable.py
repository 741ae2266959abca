"""Deformable attention over several scales: each token looks at a few places it chooses (Zhu et al. 2021, "Deformable DETR", eq. 3)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Sizes = list[tuple[int, int]]


class Deformable(nn.Module):
    """Attention of tokens to ``points`` places a head and level around their own.

    Args:
        width: features.
        heads: a divisor of the width.
        levels: maps of different size.
        points: places a head and level.
    """

    def __init__(self, width: int, heads: int, levels: int, points: int = 4) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.offsets = nn.Linear(width, heads * levels * points * 2)
        self.weights = nn.Linear(width, heads * levels * points)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        for layer in (self.offsets, self.weights):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.weights.bias)
        angle = torch.arange(heads) * (
            2.0 * math.pi / heads
        )  # each head starts to look another way, each point further out
        ring = torch.stack([angle.cos(), angle.sin()], -1)[:, None, None] * torch.arange(1, points + 1)[:, None]
        with torch.no_grad():
            self.offsets.bias.copy_(ring.expand(-1, levels, -1, -1).flatten())

    def forward(self, x: Tensor, places: Tensor, memory: Tensor, sizes: Sizes) -> Tensor:
        """Queries (B, N, width) at ``places`` (N, 2), x and y in [0, 1], to the ``memory`` (B, M, width) of maps of these sizes."""
        b, n, _ = x.shape
        shape = (b, n, self.heads, self.levels, self.points)
        offsets = self.offsets(x).view(*shape, 2)
        weights = self.weights(x).view(b, n, self.heads, -1).softmax(-1).view(shape)
        total = x.new_zeros(())
        for level, (value, (h, w)) in enumerate(
            zip(self.value(memory).split([h * w for h, w in sizes], 1), sizes, strict=True)
        ):
            value = value.view(b, h, w, self.heads, -1).permute(0, 3, 4, 1, 2).flatten(0, 1)
            grid = places[None, :, None, None] + offsets[:, :, :, level] / offsets.new_tensor([w, h])
            grid = (2.0 * grid - 1.0).permute(0, 2, 1, 3, 4).flatten(0, 1)
            seen = F.grid_sample(value, grid, align_corners=False).view(b, self.heads, -1, n, self.points)
            total = total + (seen * weights[:, :, :, level].permute(0, 2, 1, 3)[:, :, None]).sum(-1)
        return self.out(total.flatten(1, 2).transpose(1, 2))


def centers(sizes: Sizes, like: Tensor) -> Tensor:
    """The middle of every place of maps of these sizes, (Σ h·w, 2), x and y in [0, 1]."""
    found = []
    for h, w in sizes:
        y, x = torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij")
        found.append(torch.stack([x, y], -1).reshape(-1, 2))
    return torch.cat(found).to(like)
