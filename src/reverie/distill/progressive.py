"""Progressive distillation: a student learns to do in one step what its teacher does in two (Salimans & Ho, "Progressive distillation for
fast sampling of diffusion models", ICLR 2022, algorithm 2); then it is the teacher of the next, of half as many steps.

Two steps of DDIM take z_t over the point m in the middle to z_u. The one x̃ with which a single step ends there too is the target,

    x̃ = (z_u − q·z_t)/(α_u − q·α_t),   q = σ_u/σ_t,

with the weight ``max(α_t²/σ_t², 1)`` ("truncated SNR", their eq. 9). The teacher of the first round is the diffusion model, guided as its
recipe says (Meng et al. 2023, stage 2). A round to two steps or one has twice the images of another (section 5.2). A round hands on the
average of its weights towards its end, where the paper's anneals its learning rate to zero. The student is told how far its leap goes,
where the paper's knows one length at a time: so it leaps along the flow, and forgets the longer grids more slowly.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from reverie.core.batch import Batch, Dataset
from reverie.core.condition import Cond
from reverie.core.draws import Draws
from reverie.core.flow_map import FlowMap, NetFlowMap
from reverie.core.schedules import Point
from reverie.core.task import Moment, Player
from reverie.core.tensors import combine
from reverie.distill.matching import picked
from reverie.distill.student import Distilling, Student, twin
from reverie.learn.ema import power
from reverie.solve import DDIMStep, grids

WIDTH = power(0.1)
"""Of the average that a round ends with: a tenth of the round."""


def target(x: Tensor, to: Tensor, at: Point, u: Point) -> Tensor:
    """x̃ of the state ``x`` at a point and ``to`` at a later one u, both (B, …)."""
    q = u.sigma / at.sigma
    size = 1.0 / (u.alpha - q * at.alpha)
    return combine((size, -size * q), (to, x))


class Progressive(Distilling):
    """One round after another; the teacher of the round is a player that no optimizer steps.

    Args:
        model: the student, told where a leap ends.
        rounds: steps of the student in each, each half of those before.
        grid: of the steps.
        held_out: data to show beside samples.
    """

    def __init__(
        self,
        model: Student,
        rounds: Sequence[int] = (8, 4, 2, 1),
        grid: str = "time",
        *,
        held_out: Dataset | None = None,
    ) -> None:
        super().__init__(model, held_out)
        self.rounds, self.grid, self.now, self.seen = rounds, grids.named(grid), 0, 0.0
        self.ends = list(accumulate(2 if steps <= 2 else 1 for steps in rounds))
        self.previous, self.average = (NetFlowMap(twin(model.denoise)) for _ in range(2))
        for name, other in (("previous", self.previous), ("average", self.average)):
            net = other.denoise.net.requires_grad_(False)
            self.players[name] = Player(net, optim=None, average=False, train=False)

    def round(self, progress: Moment) -> int:
        """Which round it is after so many images."""
        return min(bisect_right(self.ends, progress.fraction * self.ends[-1]), len(self.rounds) - 1)

    def loss(self, player: str, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        self.now, self.seen = self.round(progress), progress.fraction
        steps, (x0, noise) = self.rounds[self.now], self.pair(batch, rng)
        points = self.grid(self.model.schedule, 2 * steps)
        i = (rng.even("time") * steps).long()
        at, middle, to = (picked(points, 2 * i + k, x0) for k in (0, 1, 2))
        z = combine((at.alpha, at.sigma), (x0, noise))
        with torch.no_grad():
            teacher: FlowMap = self.previous if self.now else DDIMStep(self.model.guided)
            goal = target(z, self._two(teacher, z, at, middle, to, batch.cond), at, to)
        error = (self.model.estimate(z, at, to, batch.cond).x0 - goal).float().square()
        weight = (at.alpha / at.sigma) ** 2
        return {"x0": (weight.clamp(min=1.0) * error).flatten(1).mean(1)}  # pyright: ignore[reportAttributeAccessIssue]

    @staticmethod
    def _two(teacher: FlowMap, z: Tensor, at: Point, middle: Point, to: Point, cond: Cond | None) -> Tensor:
        return teacher(teacher(z, at, middle, cond), middle, to, cond)

    @torch.no_grad()
    def after_step(self, progress: Moment) -> None:
        nets = [flow_map.denoise.net for flow_map in (self.average, self.model, self.previous)]
        begun = [0, *self.ends][self.now] / self.ends[-1]
        before, after = (max(fraction - begun, 0.0) for fraction in (self.seen, progress.fraction))
        kept = WIDTH(before, after) if after else 0.0
        averages, weights = ([p.detach() for p in net.parameters()] for net in nets[:2])
        torch._foreach_lerp_(averages, weights, 1.0 - kept)  # pyright: ignore[reportPrivateImportUsage]
        if self.round(progress) != self.now:
            for net in nets[1:]:
                net.load_state_dict(nets[0].state_dict())
