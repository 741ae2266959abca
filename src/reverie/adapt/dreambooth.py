"""DreamBooth (Ruiz et al., "DreamBooth: Fine Tuning Text-to-Image Diffusion Models for Subject-Driven Generation", CVPR 2023).

All weights are trained on "a [V] class", and beside it on the model's own pictures of "a class" (prior preservation, eq. 2):
``‖(p, q)-error of x under [V]‖² + λ·‖the same of x_pr under the class‖²``; the task of all methods has that term
(:mod:`reverie.adapt.training`). What is trained is ΔW, zero at first, so that the base stays and decay leads back to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from reverie.adapt.change import Change


class Dense(Change):
    """ΔW itself: ``values``, in the shape of the weight."""

    kind: ClassVar[str] = "dense"

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(values)

    @classmethod
    def blank(cls, shape: tuple[int, ...], settings: Mapping[str, float]) -> Self:
        return cls(torch.zeros(shape))

    def delta(self, weight: Tensor) -> Tensor:
        return self.values.to(weight.dtype)


def changes(net: nn.Module) -> dict[str, Change]:
    """A change of zero for every weight of a network."""
    return {name: Dense.blank(tuple(weight.shape), {}) for name, weight in net.named_parameters()}
