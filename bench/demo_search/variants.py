"""A change to the DiT that the search tried and the library did not keep."""

import torch
from torch import Tensor, nn

from reverie.nets import DiT, DiTConfig


class SkipDiT(DiT):
    """Long skip connections between the first and the second half of the blocks (Bao et al. 2023)."""

    def __init__(self, *, width: int, depth: int, heads: int) -> None:
        config = DiTConfig(patch=4, width=width, depth=depth, heads=heads, activation="relu")
        super().__init__(config, channels=1, size=28, classes=10)
        memory: list[Tensor] = []
        for i, block in enumerate(self.blocks):
            self.blocks[i] = Keep(block, memory) if i < depth // 2 else Join(block, width, memory)


class Keep(nn.Module):
    def __init__(self, block: nn.Module, memory: list[Tensor]) -> None:
        super().__init__()
        self.block, self.memory = block, memory

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        x = self.block(x, condition)
        self.memory.append(x)
        return x


class Join(nn.Module):
    def __init__(self, block: nn.Module, width: int, memory: list[Tensor]) -> None:
        super().__init__()
        self.block, self.memory = block, memory
        self.mix = nn.Linear(2 * width, width)
        with torch.no_grad():
            self.mix.weight.copy_(torch.eye(width, 2 * width))
            self.mix.bias.zero_()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return self.block(self.mix(torch.cat([x, self.memory.pop()], dim=-1)), condition)
