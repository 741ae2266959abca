"""What a network is told besides the picture: the time, the class, a vector, and where a token sits."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.core.condition import entry_of
from reverie.core.errors import InputError
from reverie.nets.precision import KeepsPrecision

if TYPE_CHECKING:
    from reverie.core.condition import Cond


def sinusoids(position: Tensor, width: int, period: float = 10_000.0, endpoint: bool = False) -> Tensor:
    """Cosines and sines of a position at geometrically spaced frequencies, from 1 down to 1 / ``period``.

    Args:
        position: any shape ``(...)``.
        width: number of features, even.
        endpoint: whether the last frequency is 1 / ``period`` itself (Ho et al. 2020) or the next one would be.

    Returns:
        ``(..., width)``: the cosines, then the sines (Vaswani et al. 2017, section 3.5).
    """
    half = width // 2
    power = -math.log(period) * torch.arange(half, device=position.device, dtype=position.dtype)
    angle = position[..., None] * torch.exp(power / (half - 1 if endpoint else half))
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def grid_positions(height: int, width: int, features: int, scale: float = 1.0) -> Tensor:
    """Fixed position codes of a grid, row by row: half of the features code the column, half the row, sines first (He et al. 2022).

    Args:
        scale: a step of the grid in units of the code.

    Returns:
        ``(height * width, features)`` float32; ``features`` is a multiple of 4.
    """
    row, column = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    codes = (sinusoids(scale * axis.flatten().double(), features // 2) for axis in (column, row))
    return torch.cat([half for code in codes for half in code.chunk(2, -1)[::-1]], dim=-1).float()


class TimeEmbedding(KeepsPrecision, nn.Module):
    """Sinusoids of a time of order 1, through a two-layer perceptron (Ho et al. 2020, appendix B).

    Args:
        frequencies: number of sinusoids.
        width: features of the result.
        scale: multiplies the time; 1000 makes the frequencies span the same range as for the 1000 integer steps of DDPM.
        endpoint: see :func:`sinusoids`.
        fourier: standard deviation of fixed random frequencies in place of the geometric ones (Song et al. 2021, NCSN++).
    """

    def __init__(
        self,
        frequencies: int,
        width: int,
        scale: float = 1000.0,
        endpoint: bool = False,
        fourier: float | None = None,
    ) -> None:
        super().__init__()
        self.frequencies, self.scale, self.endpoint = frequencies, scale, endpoint
        rate = None if fourier is None else 2 * math.pi * fourier * torch.randn(frequencies // 2)
        self.register_buffer("rate", rate)
        self.inner = nn.Linear(frequencies, width)
        self.outer = nn.Linear(width, width)

    def forward(self, time: Tensor) -> Tensor:
        """``(B,)`` -> ``(B, width)``."""
        if self.rate is None:
            waves = sinusoids(self.scale * time, self.frequencies, endpoint=self.endpoint)
        else:
            angle = self.scale * time[:, None] * self.rate.to(time.dtype)  # pyright: ignore[reportOperatorIssue, reportCallIssue]
            waves = torch.cat([angle.cos(), angle.sin()], dim=-1)
        return self.outer(F.silu(self.inner(waves.to(self.inner.weight.dtype))))

    def slow(self, scale: float, fit: bool = True) -> None:
        """Read the time by slower sinusoids.

        What training leaves of fast ones hardly moves the output, and most of the output's derivative: of the demo's network a hundredth of
        the variance, and five sixths of the norm of df/dt (Lu & Song 2024, section 4.1). Random frequencies stay as they are.

        Args:
            scale: multiplies the time from now on, where it is less than before.
            fit: whether what is said of each time in [0, 1] stays what it was, as nearly as least squares find.
        """
        if self.rate is not None or self.scale <= scale:
            return
        before = copy.deepcopy(self).double().cpu().requires_grad_(False)
        self.scale = scale
        if not fit:
            return
        after = copy.deepcopy(self).double().cpu().requires_grad_(True)
        time = torch.linspace(0.0, 1.0, 257, dtype=torch.float64, device="cpu")
        goal = before(time)
        optim = torch.optim.LBFGS(after.parameters(), max_iter=100, history_size=20, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optim.zero_grad()
            loss = (after(time) - goal).square().mean() / goal.var(0).mean()
            loss.backward()
            return loss

        with torch.enable_grad():
            optim.step(closure)
        self.load_state_dict(after.state_dict())


class Numbers(nn.ModuleDict):
    """Further numbers of order 1 that a network is told, by name; a single one is embedded as a time is, several by a matrix, which gives
    nothing where all of them are 0.

    The embeddings begin at zero: a trained network that is told more is what it was. Where a number is absent it adds nothing.

    Args:
        width: of what is added to.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def add(self, name: str, count: int = 1) -> None:
        """Tell one number more, or several."""
        if count > 1:
            self[name] = several = nn.Linear(count, self.width, bias=False)
            nn.init.zeros_(several.weight)
            return
        self[name] = embedding = TimeEmbedding(128, self.width, scale=10.0)
        nn.init.zeros_(embedding.outer.weight)
        nn.init.zeros_(embedding.outer.bias)

    def forward(self, summed: Tensor, cond: Cond | None) -> Tensor:
        """``summed`` (batch, width) and what the numbers of ``cond``, each (batch, count), add to it."""
        for name, embedding in self.items():
            if cond is not None and name in cond:
                entry = cond[name]
                several = isinstance(embedding, nn.Linear)
                told = embedding(entry.value.to(embedding.weight.dtype) if several else entry.value[:, 0])
                summed = summed + torch.where(entry.present[:, None], told, 0.0)
        return summed


class LabelTable(nn.Embedding):
    """A row a class, and behind them one more, the null: ``nn.Embedding(classes + 1, width)``."""

    @property
    def null(self) -> int:
        """The number of the last row, which is that of classes."""
        return self.num_embeddings - 1


class LabelEmbedding(nn.Module):
    """A learned vector per class, and one more, the null, for samples whose label is absent."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.table = LabelTable(classes + 1, width)
        nn.init.normal_(self.table.weight, std=0.02)

    @property
    def null(self) -> int:
        return self.table.null

    def forward(self, cond: Cond | None, batch: int) -> Tensor:
        """``(batch, width)``, or (1, width) for one label; without a label every row is the null, or the condition's own, (B, width)."""
        if cond is None or "label" not in cond:
            return self.table.weight[self.null].expand(batch, -1)
        entry = cond["label"]
        embedded = self.table(torch.where(entry.present, entry.value, self.null))
        return embedded if entry.null is None else torch.where(entry.present[:, None], embedded, entry.null)


class Conditioning(nn.Module):
    """Time, label and vector, each where the network takes it: one vector per sample that modulates every block.

    Args:
        time: the embedding of time, which sets the width.
        classes: number of classes, or None.
        vector: numbers in the condition "vector", or 0; absent, it is zeros (the learned biases are its null).
    """

    def __init__(self, time: TimeEmbedding, classes: int | None = None, vector: int = 0) -> None:
        super().__init__()
        width = time.outer.out_features
        self.time = time
        self.label = None if classes is None else LabelEmbedding(classes, width)
        self.vector = nn.Sequential(nn.Linear(vector, width), nn.SiLU(), nn.Linear(width, width)) if vector else None
        self.numbers = Numbers(width)

    def forward(self, time: Tensor, cond: Cond | None, batch: int) -> Tensor:
        """``time``, () or (batch,), and conditions -> ``(batch, width)``, after the SiLU that all its users begin with."""
        if time.shape not in ((), (batch,)):
            raise InputError(
                f"The time has shape {tuple(time.shape)}; expected () or ({batch},) for a batch of {batch}. "
                "Give one time for all samples or one per sample."
            )
        summed = self.time(time.expand(batch))
        if self.label is not None:
            summed = summed + self.label(cond, batch)
        if self.vector is not None:
            null = summed.new_zeros(self.vector[0].in_features)
            summed = summed + self.vector(entry_of(cond, "vector", null, batch).value.to(summed.dtype))
        return F.silu(self.numbers(summed, cond))
