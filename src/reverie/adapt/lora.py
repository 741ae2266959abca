"""LoRA (Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022): ``ΔW = (α/r)·B·A``, with A (r, in) random and B
(out, r) zero; and DoRA (Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation", ICML 2024).

DoRA trains the length of each output's row apart from its direction: ``W' = m·V/‖V‖`` with V = W + (α/r)·B·A and m = ‖W‖ at first; ‖V‖ is
held constant in the gradient (section 4.3). Of a convolution a row holds inputs and kernel together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from reverie.adapt.change import Change, layers
from reverie.core.errors import InputError


class LowRank(Change):
    """``(α/r)·up·down``.

    Args:
        up: B, (out, r).
        down: A, (r, in, …), as the weight.
        alpha: α.
    """

    kind: ClassVar[str] = "lora"

    def __init__(self, up: Tensor, down: Tensor, alpha: float) -> None:
        super().__init__()
        self.up, self.down, self.alpha = nn.Parameter(up), nn.Parameter(down), alpha

    @property
    def rank(self) -> int:
        return len(self.down)

    @classmethod
    def begin(cls, weight: Tensor, rank: int, alpha: float, generator: torch.Generator) -> Self:
        """A drawn as linear layers are, B zero. A weight whose own rank is less gets that, at the same α/r."""
        own = min(rank, len(weight), weight[0].numel())
        change = cls.blank(tuple(weight.shape), {"rank": own, "alpha": alpha * own / rank})
        with torch.no_grad():
            bound = weight[0].numel() ** -0.5
            change.down.copy_((2 * torch.rand(change.down.shape, generator=generator) - 1) * bound)
        return change

    @classmethod
    def blank(cls, shape: tuple[int, ...], settings: Mapping[str, float]) -> Self:
        rank = int(settings["rank"])
        return cls(torch.zeros(shape[0], rank), torch.zeros(rank, *shape[1:]), float(settings["alpha"]))

    def settings(self) -> dict[str, float]:
        return {"rank": self.rank, "alpha": self.alpha}

    def product(self, weight: Tensor) -> Tensor:
        down = self.down.flatten(1)
        return ((self.alpha / self.rank) * (self.up @ down)).reshape(weight.shape).to(weight.dtype)

    def delta(self, weight: Tensor) -> Tensor:
        return self.product(weight)


class DoRA(LowRank):
    """``m·V/‖V‖ − W`` with V = W + (α/r)·up·down; ``magnitude`` is m, (out,)."""

    kind: ClassVar[str] = "dora"

    def __init__(self, up: Tensor, down: Tensor, alpha: float) -> None:
        super().__init__(up, down, alpha)
        self.magnitude = nn.Parameter(torch.zeros(len(up)))

    @classmethod
    def begin(cls, weight: Tensor, rank: int, alpha: float, generator: torch.Generator) -> Self:
        change = super().begin(weight, rank, alpha, generator)
        with torch.no_grad():
            change.magnitude.copy_(_lengths(weight))
        return change

    def delta(self, weight: Tensor) -> Tensor:
        v = weight + self.product(weight)
        length = _lengths(v).detach()
        ratio = torch.where(length > 0, self.magnitude / torch.where(length > 0, length, 1.0), 1.0)
        return v * ratio.reshape(-1, *(1,) * (v.ndim - 1)).to(v) - weight


def _lengths(weight: Tensor) -> Tensor:
    return weight.flatten(1).float().norm(dim=1)


def changes(
    net: nn.Module, rank: int, alpha: float | None, pattern: str, seed: int, dora: bool = False
) -> dict[str, Change]:
    """Fresh changes of the layers of a network that match ``pattern``, by weight; α is the rank unless given.

    Raises:
        InputError: when none match, or α is not finite.
    """
    kind, generator = DoRA if dora else LowRank, torch.Generator().manual_seed(seed)
    alpha = float(rank) if alpha is None else alpha
    if not math.isfinite(alpha):
        raise InputError(f"alpha is a finite number: got {alpha}")
    return {name: kind.begin(weight, rank, alpha, generator) for name, weight in layers(net, pattern).items()}


def factored(delta: Tensor, rank: int | None = None, mass: float = 1.0) -> LowRank:
    """A weight's change as a product of low rank, by its singular value decomposition, exact where the rank is.

    Args:
        delta: ΔW.
        rank: at most; that of ΔW without.
        mass: share of the sum of the singular values to keep.
    """
    u, s, vh = torch.linalg.svd(delta.detach().flatten(1).double(), full_matrices=False)
    kept = int((s > 1e-7 * s[0].clamp(min=1e-300)).sum())
    if mass < 1.0:
        kept = min(kept, int((s.cumsum(0) < mass * s.sum()).sum()) + 1)
    kept = max(1, kept if rank is None else min(kept, rank))
    root = s[:kept].sqrt()
    up, down = u[:, :kept] * root, root[:, None] * vh[:kept]
    return LowRank(up.to(delta.dtype), down.reshape(kept, *delta.shape[1:]).to(delta.dtype), float(kept))
