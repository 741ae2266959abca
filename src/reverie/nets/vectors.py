"""A residual perceptron that denoises vectors: the network of a diffusion over representations.

Li et al., "Return of Unconditional Generation", NeurIPS 2024 (appendix: the representation diffusion model).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from reverie.core.errors import InputError
from reverie.nets.embeddings import Conditioning, TimeEmbedding
from reverie.nets.layers import zeroed
from reverie.nets.network import Network, conditions

if TYPE_CHECKING:
    from reverie.core.condition import Cond


class Block(nn.Module):
    """Norm, SiLU, linear; the time added; norm, SiLU, a linear layer that starts at zero; the input added."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, width))
        self.time = nn.Linear(width, width)
        self.outer = nn.Sequential(nn.LayerNorm(width), nn.SiLU(), zeroed(nn.Linear(width, width)))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return x + self.outer(self.inner(x) + self.time(condition))


class VectorNet(Network):
    """``net(x, time, cond)`` for vectors (B, dim).

    Args:
        dim: numbers of a vector.
        width: features of a block (the paper's has 1,536).
        depth: blocks (the paper's has 12).
        classes: number of classes, or None for a network without labels.
    """

    def __init__(self, dim: int, width: int = 256, depth: int = 4, classes: int | None = None) -> None:
        super().__init__()
        self.dim = dim
        self.conditions = conditions(classes)
        self.embed = nn.Linear(dim, width)
        self.conditioning = Conditioning(TimeEmbedding(128, width), classes)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.out = nn.Sequential(nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, dim))

    def forward(self, x: Tensor, time: Tensor, cond: Cond | None = None) -> Tensor:
        """``(B, dim)`` and a time of order 1, () or (B,) -> ``(B, dim)``.

        Raises:
            InputError: for vectors of another length.
        """
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise InputError(f"The network was given {tuple(x.shape)}; expected vectors (batch, {self.dim}).")
        condition = self.conditioning(time, cond, len(x))
        x = self.embed(x)
        for block in self.blocks:
            x = block(x, condition)
        return self.out(x)
