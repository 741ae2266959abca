"""Flow maps: where the probability-flow ODE takes a state from one time to another, in one evaluation.

Consistency models (Song et al. 2023), shortcut models (Frans et al. 2025), MeanFlow (Geng et al. 2025) and inductive moment matching
(Zhou et al. 2025) learn one; a denoiser and a single step of a solver make one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from reverie.core.space import Space

if TYPE_CHECKING:
    from reverie.core.condition import Cond, Conditions
    from reverie.core.schedules import Point, Schedule
    from reverie.core.tensors import Scalar


class FlowMap(ABC):
    """``(x_t, t, s, cond) -> x_s``; ``map(x, t, t) = x`` exactly, differentiable in x, t and s.

    Attributes:
        schedule: the path that the states lie on.
        shape: of one state.
        conditions: what it may be told.
        space: between data and states.
    """

    schedule: Schedule
    shape: tuple[int, ...]
    conditions: Conditions
    space: Space

    @abstractmethod
    def __call__(self, x: Tensor, t: Point | Scalar, s: Point | Scalar, cond: Cond | None = None) -> Tensor:
        """The state (B, …) at ``t`` carried to ``s``; times are points, floats, or tensors of shape () or (B,)."""

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")
