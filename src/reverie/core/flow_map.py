"""Flow maps: where the probability-flow ODE takes a state from one time to another, in one evaluation.

Consistency models (Song et al. 2023), shortcut models (Frans et al. 2025), MeanFlow (Geng et al. 2025) and inductive moment matching
(Zhou et al. 2025) learn one; a denoiser and a single step of a solver make one. In z = x/(α + σ) and τ = σ/(α + σ) every path is the
straight one, the flow is ``dz/dτ = E[ε − x0 | z]``, and a flow map is its mean velocity u over the interval: ``z_s = z_t − (τ_t − τ_s)·u``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from reverie.core.condition import Cond, Entry
from reverie.core.errors import InputError
from reverie.core.tensors import onto

if TYPE_CHECKING:
    from reverie.core.condition import Conditions
    from reverie.core.denoiser import NetDenoiser
    from reverie.core.estimate import Estimate
    from reverie.core.schedules import Point, Schedule
    from reverie.core.space import Space
    from reverie.core.tensors import Scalar

UNTIL = "until"
"""The condition by which a network is told where a leap ends: τ_t − τ_s, 0 for no leap."""


class FlowMap(ABC):
    """``(x_t, t, s, cond) -> x_s``; ``map(x, t, t) = x`` exactly, differentiable in x, t and s.

    Attributes:
        schedule: the path that the states lie on.
        shape: of one state.
        conditions: what it may be told.
        space: between data and states.
        anywhere: whether a leap may end at any s; else at clean data only, and several steps renoise between them.
        trained: the numbers of steps that it was made for; any if there are none.
        steps: in how many it is drawn unless told otherwise.
    """

    schedule: Schedule
    shape: tuple[int, ...]
    conditions: Conditions
    space: Space
    anywhere: bool = True
    trained: tuple[int, ...] = ()
    steps: int | None = None

    @abstractmethod
    def __call__(self, x: Tensor, t: Point | Scalar, s: Point | Scalar, cond: Cond | None = None) -> Tensor:
        """The state (B, …) at ``t`` carried to ``s``; times are points, floats, or tensors of shape () or (B,)."""

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")


class NetFlowMap(FlowMap):
    """A network's estimates as a flow map: ``x_s = α_s·x0 + σ_s·ε`` with what it says at t, told where the leap ends.

    That is one step of DDIM, and ``z_s = z_t − (τ_t − τ_s)·u`` with u = ε − x0. A network that listens to :data:`UNTIL`
    (:meth:`reverie.nets.network.Network.listen`) leaps anywhere. One that does not is a consistency function, whose x0 is where the flow
    ends (Song et al. 2023: their c_skip and c_out are those of the kind "edm"), or a generator of one step.

    Args:
        denoise: the network on its path.
        trained: the numbers of steps that it was made for.
    """

    def __init__(self, denoise: NetDenoiser, trained: tuple[int, ...] = ()) -> None:
        self.denoise, self.trained = denoise, trained
        self.schedule, self.shape, self.space = denoise.schedule, denoise.shape, denoise.space
        self.anywhere = UNTIL in denoise.conditions
        self.conditions = {name: spec for name, spec in denoise.conditions.items() if name != UNTIL}

    def __repr__(self) -> str:
        return f"NetFlowMap({self.denoise!r})"

    def estimate(self, x: Tensor, t: Point | Scalar, s: Point | Scalar, cond: Cond | None = None) -> Estimate:
        """What the network says of a state (B, …) at ``t`` that is to be carried to ``s``; its ``linear(-1, 1)`` is the velocity u.

        Raises:
            InputError: when it is not told where a leap ends, and is asked for one that does not end at clean data.
        """
        at, to = self.denoise.point(t, x), self.denoise.point(s, x)
        if not self.anywhere:
            if isinstance(to.sigma, float) and to.sigma > 0.0 and to.t != at.t:
                raise InputError(
                    f"this model leaps to clean data only, not to t = {to.t:g}: its network has no second time. A flow map is made by "
                    "`reverie distill RUN --method meanflow`, whose copy of the network has one"
                )
            return self.denoise(x, at, cond)
        gap: Any = at.tau - to.tau
        gap = onto(gap, x).flatten() if isinstance(gap, Tensor) else x.new_full((1,), gap)
        told = Cond(**{name: cond[name] for name in cond or ()}, **{UNTIL: Entry.of(gap.expand(len(x))[:, None])})  # pyright: ignore[reportOptionalSubscript]
        return self.denoise(x, at, told)

    def __call__(self, x: Tensor, t: Point | Scalar, s: Point | Scalar, cond: Cond | None = None) -> Tensor:
        at, to = self.denoise.point(t, x), self.denoise.point(s, x)
        if isinstance(at.t, float) and isinstance(to.t, float) and at.t == to.t:
            return x
        u, size = self.estimate(x, at, to, cond).linear(-1.0, 1.0), to.alpha + to.sigma
        return (size / (at.alpha + at.sigma)) * x - (size * (at.tau - to.tau)) * u

    @property
    def device(self) -> torch.device:
        return self.denoise.device

    @property
    def dtype(self) -> torch.dtype:
        return self.denoise.dtype

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The map itself, all that it holds moved and cast."""
        self.denoise.to(device, dtype)
        return self
