"""What ADD and LADD share: a student that cleans noised data at the points of its grid, and a hinge loss on frozen features."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from reverie.core.batch import Batch, Dataset
from reverie.core.draws import Draws
from reverie.core.task import Moment, Optim, Player
from reverie.core.tensors import combine
from reverie.distill.matching import Critic, Matching, picked
from reverie.distill.student import Student
from reverie.families.gan import slope

Looks = Callable[[Tensor, Tensor, Batch], Mapping[str, Tensor]]
"""(x, ε, batch) -> features of clean samples x, by name; differentiable."""


class Adversarial(Matching):
    """Critic and student in turn; what sees the features is frozen, the heads on them are the critic.

    Args:
        model: the student.
        steps, grid: that it is made for.
        looks: the features.
        critic: heads on them.
        critic_lr: learning rate of the critic; the recipe's without.
        r1: weight of the penalty on the heads' slope at features of data.
        held_out: data to show beside samples.
    """

    def __init__(
        self,
        model: Student,
        steps: int = 1,
        grid: str = "time",
        *,
        looks: Looks,
        critic: Critic,
        critic_lr: float | None = None,
        r1: float = 0.0,
        held_out: Dataset | None = None,
    ) -> None:
        super().__init__(model, steps, grid, held_out=held_out)
        self.looks, self.critic, self.r1 = looks, critic, r1
        moves = Optim(optimizer="adamw", lr=critic_lr, betas=(0.0, 0.99))
        self.players = {"critic": Player(critic, optim=moves, average=False), **self.players}

    def starts(self, rng: Draws, progress: Moment) -> Tensor:
        """The point of the grid (B,) that each sample starts from: all alike."""
        return (rng.even("start") * len(self.points)).long()

    def cleaned(self, batch: Batch, rng: Draws, progress: Moment) -> Tensor:
        """What the student makes of noised data, (B, …)."""
        x0, noise = self.pair(batch, rng)
        at = picked(self.points, self.starts(rng, progress), x0)
        return self.leap(combine((at.alpha, at.sigma), (x0, noise)), at, batch)

    def loss(self, player: str, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        noise = rng.normal("seen", self.model.shape)
        if player == "student":
            x = self.cleaned(batch, rng, progress)
            fool = -self.critic(self.looks(x, noise.to(x), batch), batch.label).mean(1)
            return {"fool": fool, **self.further(x, batch, rng)}
        with torch.no_grad():
            real, fake = self.codes(batch), self.cleaned(batch, rng, progress)
            seen = [dict(self.looks(x, noise.to(x), batch)) for x in (real, fake)]
        if self.r1:
            seen[0] = {name: value.requires_grad_() for name, value in seen[0].items()}
        ratings = [self.critic(some, batch.label) for some in seen]
        parts = {"real": F.relu(1.0 - ratings[0]).mean(1), "fake": F.relu(1.0 + ratings[1]).mean(1)}
        if self.r1:
            slopes = [slope(ratings[0][:, k], seen[0][name]) for k, name in enumerate(self.critic.names)]
            parts["r1"] = 0.5 * self.r1 * torch.stack(slopes).mean(0)
        return parts

    def further(self, x: Tensor, batch: Batch, rng: Draws) -> dict[str, Tensor]:
        """Further parts of the student's loss, of its samples."""
        return {}
