"""ADD: a student that fools a critic and agrees with its teacher (Sauer, Lorenz, Blattmann & Rombach, "Adversarial diffusion distillation",
ECCV 2024).

    L = −critic(x̂) + λ·E α(t)·‖x̂ − sg(D_teacher(α·x̂ + σ·ε))‖²,   x̂ the student's clean sample of noised data.

The teacher is asked about the student's sample, noised again, not about the data. Alone, the second term makes means of all that it holds
possible; the critic, a hinge loss of heads on features of a frozen network, makes them samples. The features are those inside of the
teacher where there is little noise, or EfficientNet's; never the judge's, by which samples are measured afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from reverie.core.batch import Batch, Dataset
from reverie.core.denoiser import NetDenoiser
from reverie.core.draws import Draws
from reverie.core.space import Space
from reverie.core.tensors import combine
from reverie.distill.adversarial import Adversarial, Looks
from reverie.distill.matching import Critic
from reverie.distill.student import Student
from reverie.measure.extract import EfficientNetLite0
from reverie.nets import taps

LOGSNR = 4.0
"""Where the teacher's features are read."""


class ADD(Adversarial):
    """See the module.

    Args:
        model, steps, grid, looks, critic, critic_lr, r1, held_out: as of :class:`~reverie.distill.adversarial.Adversarial`.
        weight: λ, of the agreement with the teacher.
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
        weight: float = 2.5,
        held_out: Dataset | None = None,
    ) -> None:
        super().__init__(model, steps, grid, looks=looks, critic=critic, critic_lr=critic_lr, r1=r1, held_out=held_out)
        self.weight = weight

    def further(self, x: Tensor, batch: Batch, rng: Draws) -> dict[str, Tensor]:
        if not self.weight:
            return {}
        t = self.even(rng)
        with torch.no_grad():
            x_t, _ = self.noise(x, t, rng)
            point = self.model.schedule.point(t).align(x)
            goal = self.model.guided(x_t, point, batch.cond).x0
        return {"teacher": self.weight * (point.alpha * (x - goal).square()).flatten(1).mean(1)}


class Inside:
    """The features at sites of the teacher, of samples with little noise."""

    def __init__(self, teacher: NetDenoiser, sites: Sequence[str]) -> None:
        self.point, self.recorded = teacher.schedule.at(0.5 * LOGSNR), taps.record(teacher, sites, stop=True)

    def __call__(self, x: Tensor, noise: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        x_t = combine((self.point.alpha, self.point.sigma), (x, noise))
        return self.recorded(x_t, self.point, batch.cond).features or {}


class General:
    """EfficientNet's features of pictures."""

    def __init__(self, space: Space) -> None:
        self.space, self.extractor = space, EfficientNetLite0()

    def __call__(self, x: Tensor, noise: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        return {"features": self.extractor.to(x.device)(self.space.decode(x))}
