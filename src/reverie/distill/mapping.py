"""What tasks that learn a flow map share: where along the path they look, the velocity there, and tangents along the flow.

With z = x/(α + σ) and τ = σ/(α + σ) every path is the straight one, ``z = (1 − τ)·x0 + τ·ε``, and its flow is ``dz/dτ = v(z, τ)`` with
``v = E[ε − x0 | z]``. The exact map goes along it, ``f(z_t, t, s) = z_t − ∫ v dτ`` from τ_s to τ_t, and is known by any of

* its derivative where it ends, ``∂f/∂τ_s = v(f, s)``;
* where it begins, ``∂f/∂τ_t + ∂f/∂z·v(z_t, t) = 0``: it does not change along the flow;
* its composition, ``f(f(z_t, t, r), r, s) = f(z_t, t, s)``,

with f(z, t, t) = z. Each method holds a network to one of them. The velocity is the teacher's, guided, or that of a pair of data and noise,
of which v is the mean.
"""

from __future__ import annotations

from copy import copy, deepcopy
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from reverie.core.batch import Batch, Dataset
from reverie.core.condition import Cond
from reverie.core.draws import Draws
from reverie.core.flow_map import NetFlowMap
from reverie.core.task import Moment, Player
from reverie.diffusion.reflow import EvenTau
from reverie.distill.student import Distilling, Student

if TYPE_CHECKING:
    from reverie.distill.flow_config import FlowMapConfig

MIX = 0.5
"""Of the guided velocity of a pair, the share that is the network's own: κ of Geng et al. 2025, eq. 21."""


class Mapping(Distilling):
    """A flow map that is learned.

    Args:
        model: what is trained.
        config: the settings of the method.
        held_out: data to show beside samples.
    """

    def __init__(self, model: Student, config: FlowMapConfig, held_out: Dataset | None = None) -> None:
        super().__init__(model, held_out)
        self.schedule, self.at = model.schedule, EvenTau(model.schedule)
        self.taught = config.taught
        self.drop = 0.0 if self.taught or config.model is None else config.model.drop

    def condition(self, batch: Batch, rng: Draws) -> Cond | None:
        """The conditions of a batch; from data, as many are dropped as of the teacher's."""
        if batch.cond is None or self.drop == 0.0:
            return batch.cond
        return batch.cond.drop((rng.uniform("drop") >= self.drop).to(batch.x.device))

    def tau(self, t: Tensor, x: Tensor) -> Tensor:
        """τ of times (B,), broadcast over ``x``."""
        return self.schedule.point(t).align(x).tau  # pyright: ignore[reportReturnType]

    def size(self, t: Tensor, x: Tensor) -> Tensor:
        """α + σ of times (B,), broadcast over ``x``: the state is z times it."""
        point = self.schedule.point(t).align(x)
        return point.alpha + point.sigma  # pyright: ignore[reportReturnType]

    def mean_velocity(self, x: Tensor, t: Tensor, s: Tensor, cond: Cond | None) -> Tensor:
        """The student's u from t to s, both float64 (B,): ``z_s = z_t − (τ_t − τ_s)·u``."""
        return self.model.estimate(x, t, s, cond).linear(-1.0, 1.0)

    def moved(self, x: Tensor, t: Tensor, s: Tensor, u: Tensor) -> Tensor:
        """The state (B, …) at t carried to s with mean velocity ``u``."""
        z = x / self.size(t, x) - (self.tau(t, x) - self.tau(s, x)) * u
        return z * self.size(s, x)

    @torch.no_grad()
    def velocity(self, x: Tensor, t: Tensor, cond: Cond | None, pair: tuple[Tensor, Tensor]) -> Tensor:
        """``v = dz/dτ`` at states (B, …): the guided teacher's; from data that of their x0 and ε, guided by the student itself.

        The latter is ``ω(ε − x0) + κ·u(z|c) + (1 − ω − κ)·u(z)`` with ω = (1 − κ)·scale, for the student's own u at no leap.
        """
        if self.taught:
            return self.model.guided(x, t, cond).linear(-1.0, 1.0)
        v = pair[1] - pair[0]
        if self.model.scale == 1.0 or cond is None:
            return v
        told, untold = (self.mean_velocity(x, t, t, c) for c in (cond, cond.null()))
        omega = (1.0 - MIX) * self.model.scale
        guided = omega * v + MIX * told + (1.0 - omega - MIX) * untold
        present = torch.stack([cond[name].present for name in cond]).any(0)
        return torch.where(present.view(-1, *(1,) * (x.ndim - 1)), guided, v)

    @torch.no_grad()
    def solved(self, x: Tensor, t: Tensor, s: Tensor, cond: Cond | None) -> Tensor:
        """The state at t carried to s by the teacher: one step of Heun's method in (z, τ)."""
        first = self.model.guided(x, t, cond).linear(-1.0, 1.0)
        second = self.model.guided(self.moved(x, t, s, first), s, cond).linear(-1.0, 1.0)
        return self.moved(x, t, s, 0.5 * (first + second))

    def along(self, x: Tensor, t: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The tangents of the state and of t where τ grows at rate 1 and z moves at ``v``."""
        point = self.schedule.point(t)
        size = point.alpha + point.sigma
        rate = size.square() / (point.d_sigma * point.alpha - point.sigma * point.d_alpha)  # dt/dτ
        drift = point._replace(t=(point.d_alpha + point.d_sigma) * rate / size, alpha=size).align(x)
        return drift.alpha * v + drift.t * x, rate

    def begins(self, rng: Draws, progress: Moment) -> Tensor:
        """The times t (B,) that a batch is looked at."""
        raise NotImplementedError

    def describe(self, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        return {"logsnr": 2.0 * self.schedule.lam(self.begins(rng, progress))}


class Slowly(Mapping):
    """One with a moving average of the student as a teacher of itself.

    Attributes:
        slow: the flow map with the averaged weights.
    """

    def __init__(self, model: Student, config: FlowMapConfig, held_out: Dataset | None = None) -> None:
        super().__init__(model, config, held_out)
        denoise = copy(model.denoise)
        denoise.net = deepcopy(denoise.net).eval().requires_grad_(False)
        denoise.prior = getattr(denoise.net, "prior", None)
        self.slow = NetFlowMap(denoise)
        self.players = {**self.players, "slow": Player(denoise.net, optim=None, average=False, train=False)}

    def decay(self, progress: Moment) -> float:
        """What a step leaves of the average."""
        raise NotImplementedError

    @torch.no_grad()
    def after_step(self, progress: Moment) -> None:
        nets = (self.slow.denoise.net, self.model.denoise.net)
        averages, weights = ([p.detach() for p in net.parameters()] for net in nets)
        torch._foreach_lerp_(averages, weights, 1.0 - self.decay(progress))  # pyright: ignore[reportPrivateImportUsage]
