"""What a network is told besides the picture: the time, the class, and where a token sits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.core.errors import InputError

if TYPE_CHECKING:
    from reverie.core.condition import Cond


def sinusoids(position: Tensor, width: int, period: float = 10_000.0) -> Tensor:
    """Cosines and sines of a position at geometrically spaced frequencies, from 1 down to 1 / ``period``.

    Args:
        position: any shape ``(...)``.
        width: number of features, even.

    Returns:
        ``(..., width)``: the cosines, then the sines (Vaswani et al. 2017, section 3.5).
    """
    half = width // 2
    rate = torch.exp(-math.log(period) / half * torch.arange(half, device=position.device, dtype=position.dtype))
    angle = position[..., None] * rate
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def grid_positions(height: int, width: int, features: int) -> Tensor:
    """Fixed position codes of a grid, row by row: half of the features code the row, half the column.

    Returns:
        ``(height * width, features)`` float32; ``features`` is a multiple of 4.
    """
    row, column = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    half = features // 2
    return torch.cat([sinusoids(row.flatten(), half), sinusoids(column.flatten(), half)], dim=-1)


class TimeEmbedding(nn.Module):
    """Sinusoids of a time of order 1, through a two-layer perceptron (Ho et al. 2020, appendix B).

    The time is multiplied by 1000, so that frequencies span the same range as for the 1000 integer steps of DDPM.
    """

    def __init__(self, frequencies: int, width: int) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.inner = nn.Linear(frequencies, width)
        self.outer = nn.Linear(width, width)

    def forward(self, time: Tensor) -> Tensor:
        """``(B,)`` -> ``(B, width)``."""
        waves = sinusoids(1000.0 * time, self.frequencies).to(self.inner.weight.dtype)
        return self.outer(F.silu(self.inner(waves)))


class LabelEmbedding(nn.Module):
    """A learned vector per class, and one more, the null, for samples whose label is absent."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.null = classes
        self.table = nn.Embedding(classes + 1, width)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, cond: Cond | None, batch: int) -> Tensor:
        """``(batch, width)``, or (1, width) for one label; without a label every row is the null."""
        if cond is None or "label" not in cond:
            return self.table.weight[self.null].expand(batch, -1)
        entry = cond["label"]
        return self.table(torch.where(entry.present, entry.value, self.null))


class Conditioning(nn.Module):
    """Time and, if there are classes, label: one vector per sample that modulates every block of a network."""

    def __init__(self, frequencies: int, width: int, classes: int | None) -> None:
        super().__init__()
        self.time = TimeEmbedding(frequencies, width)
        self.label = None if classes is None else LabelEmbedding(classes, width)

    def forward(self, time: Tensor, cond: Cond | None, batch: int) -> Tensor:
        """``time``, () or (batch,), and labels -> ``(batch, width)``, after the SiLU that all its users begin with."""
        if time.shape not in ((), (batch,)):
            raise InputError(
                f"The time has shape {tuple(time.shape)}; expected () or ({batch},) for a batch of {batch}. "
                "Give one time for all samples or one per sample."
            )
        vector = self.time(time.expand(batch))
        if self.label is not None:
            vector = vector + self.label(cond, batch)
        return F.silu(vector)
