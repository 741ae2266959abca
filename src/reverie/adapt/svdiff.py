"""SVDiff (Han et al., "SVDiff: Compact Parameter Space for Diffusion Fine-Tuning", ICCV 2023): only the singular values move.

``W = U·diag(σ)·Vᵀ`` becomes ``U·diag(relu(σ + δ))·Vᵀ`` (eq. 3), of a convolution (out, in, k, k) as the matrix (out, in·k²); δ is what is
trained and stored. ΔW is the product of the difference alone, so that at δ = 0 nothing changes, not even by the error of the
decomposition. A singular value that is zero has no direction of its own, and stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from reverie.adapt.change import Change, layers


class Spectral(Change):
    """``U·diag(relu(σ + shift) − σ)·Vᵀ``; ``shift`` is δ, (min(out, in·k²),)."""

    kind: ClassVar[str] = "svdiff"

    def __init__(self, count: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(count))
        self.axes: tuple[Tensor, ...] | None = None

    @classmethod
    def blank(cls, shape: tuple[int, ...], settings: Mapping[str, float]) -> Self:
        return cls(min(shape[0], torch.Size(shape[1:]).numel()))

    @torch.no_grad()
    def decomposed(self, weight: Tensor) -> tuple[Tensor, ...]:
        """U, σ, Vᵀ and where σ is not zero, found once: the base stays."""
        if self.axes is None or self.axes[0].device != weight.device:
            matrix = weight.detach().flatten(1).cpu().double()
            u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
            real = s > max(matrix.shape) * torch.finfo(weight.dtype).eps * s[0]
            self.axes = tuple(v.to(weight.device, torch.float32) for v in (u, s, vh, real))
        return self.axes

    def delta(self, weight: Tensor) -> Tensor:
        u, s, vh, real = self.decomposed(weight)
        moved = real * (torch.relu(s + self.shift) - s)
        return ((u * moved) @ vh).reshape(weight.shape).to(weight.dtype)


def changes(net: nn.Module, pattern: str) -> dict[str, Change]:
    """Shifts of zero for the layers of a network that match ``pattern``, by weight.

    Raises:
        InputError: when none match.
    """
    return {name: Spectral.blank(tuple(weight.shape), {}) for name, weight in layers(net, pattern).items()}
