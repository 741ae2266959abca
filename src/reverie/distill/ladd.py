"""LADD: the critic looks at the features of the teacher itself, at all levels of noise (Sauer et al., "Fast high-resolution image synthesis
with latent adversarial diffusion distillation", SIGGRAPH Asia 2024).

Samples and data are noised to one random level and shown to the frozen teacher; heads on its features after each block are the critic,
with a hinge loss, and there is no other loss. The level has ``ln(σ/α) ~ N(1, 1)``, on the straight path their logit-normal times, for
latents of 128x128. As much noise hides all of a small picture, so the mean goes with the root of the size, ``1 + ½·ln(HW/128²)`` (Esser et
al. 2024, eq. 23): at theirs the critic of digits of 28x28 never saw a pattern of two pixels that the student drew on all.
At first the student starts from the less noisy half of its grid only, later mostly from pure noise. The paper's data is drawn by the
teacher; here it is the run's own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from reverie.core.batch import Batch, Dataset
from reverie.core.draws import Draws
from reverie.core.task import Moment
from reverie.core.times import LogNormalSigma
from reverie.distill.adversarial import Adversarial
from reverie.distill.matching import Critic, blocks, classes_of, shapes
from reverie.distill.student import Student
from reverie.nets import taps

SIZE = 128**2
"""Places of the latents for which the paper chose the levels."""
WARM = 500
"""Steps of training before the student starts from pure noise."""
PURE = 0.7
"""Share of the samples that start from it after that."""


class LADD(Adversarial):
    """See the module.

    Args:
        model: the student.
        steps, grid: that it is made for.
        sites: of the teacher's features; after each block without.
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
        sites: Sequence[str] | None = None,
        critic_lr: float | None = None,
        r1: float = 0.0,
        held_out: Dataset | None = None,
    ) -> None:
        sites = blocks(model.teacher) if sites is None else sites  # pyright: ignore[reportArgumentType]
        critic = Critic(shapes(model.teacher, sites), classes_of(model.teacher))  # pyright: ignore[reportArgumentType]
        super().__init__(
            model, steps, grid, looks=self.inside, critic=critic, critic_lr=critic_lr, r1=r1, held_out=held_out
        )
        mean = 1.0 + 0.5 * math.log(math.prod(model.shape[1:]) / SIZE)
        self.levels = LogNormalSigma(model.schedule, mean, 1.0)
        self.recorded = taps.record(model.teacher, sites, stop=True)

    def starts(self, rng: Draws, progress: Moment) -> Tensor:
        u, n = rng.even("start"), len(self.points)
        if n == 1:
            return torch.zeros_like(u, dtype=torch.long)
        if progress.step < WARM:
            return n // 2 + (u * (n - n // 2)).long()
        return torch.where(u < PURE, 0, 1 + ((u - PURE) / (1.0 - PURE) * (n - 1)).long().clamp(0, n - 2))

    def loss(self, player: str, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        self.level = self.levels(rng.even("level"))
        return super().loss(player, batch, rng, progress)

    def inside(self, x: Tensor, noise: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The teacher's features of samples at this turn's level of noise."""
        point = self.model.schedule.point(self.level)
        return dict(self.recorded(self.noised(x, noise, self.level), point, batch.cond).features or {})
