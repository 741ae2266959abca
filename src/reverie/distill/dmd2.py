"""DMD2: the student's samples follow the difference of two scores, and fool a critic of noised pictures (Yin et al., "Improved distribution
matching distillation for fast image synthesis", NeurIPS 2024; DMD is Yin et al., CVPR 2024).

The gradient of KL(student ‖ teacher) between the noised laws is the score of the student's less the teacher's. The teacher gives one; the
other is learned on the student's samples by a second network, "fake". With x a sample and D the two estimates of x0 at x_t = α·x + σ·ε,

    ∇ = (D_fake − D_real)/mean|x − D_real|,   L = ½·mean (x − sg(x − ∇))².

The fake network is stepped more often than the student (their two time-scale rule), on denoising the student's samples and, through a head
on its bottleneck, on telling noised data from noised samples; the student fools that with a small weight. Of several steps the student is
trained on what its own leaps made (backward simulation, :mod:`reverie.distill.matching`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.core.batch import Batch, Dataset
from reverie.core.draws import Draws
from reverie.core.estimate import Estimate
from reverie.core.task import Moment, Optim, Player
from reverie.core.tensors import combine
from reverie.core.times import TimeSampler
from reverie.distill.matching import Critic, Matching, bottleneck, classes_of, shapes
from reverie.distill.student import Student, twin
from reverie.nets import taps


def matched(x: Tensor, real: Tensor, fake: Tensor) -> Tensor:
    """The loss (B,) whose gradient in samples x is the difference of the scores, by the two estimates of x0; all (B, …)."""
    with torch.no_grad():
        size = (x - real).abs().flatten(1).mean(1).view(-1, *[1] * (x.ndim - 1))
        goal = x - (fake - real) / size
    return 0.5 * (x - goal).square().flatten(1).mean(1)


class DMD2(Matching):
    """Student and fake network in turn.

    Args:
        model: the student.
        steps, grid: that it is made for.
        times: the density of t on which the fake network learns.
        gan: weight of the critic in the student's loss; 0 for none.
        ratio: turns of the fake network to one of the student.
        fake_lr: its learning rate; the recipe's without.
        held_out: data to show beside samples.
    """

    def __init__(
        self,
        model: Student,
        steps: int = 1,
        grid: str = "time",
        *,
        times: TimeSampler,
        gan: float = 3e-3,
        ratio: int = 2,
        fake_lr: float | None = None,
        held_out: Dataset | None = None,
    ) -> None:
        super().__init__(model, steps, grid, held_out=held_out)
        self.times, self.gan, self.ratio = times, gan, ratio
        self.fake = twin(model.teacher)  # pyright: ignore[reportArgumentType]
        parts = {"net": self.fake.net}
        if gan:
            self.site = bottleneck(self.fake)
            parts["critic"] = self.critic = Critic(shapes(self.fake, [self.site]), classes_of(self.fake))
        self.players["fake"] = Player(nn.ModuleDict(parts), optim=Optim(lr=fake_lr), average=False)

    def turns(self, progress: Moment) -> list[str]:
        return ["fake"] * self.ratio + ["student"]

    def loss(self, player: str, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        return (self._telling if player == "fake" else self._matching)(batch, rng, progress)

    def _telling(self, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        with torch.no_grad():
            x = self.made(batch, rng, progress)
        t = self.times(rng.even("time"))
        x_t, noise = self.noise(x, t, rng)
        said = self._seen(x_t, t, batch)
        pair = self.fake.kind(said.point)
        parts = {"denoise": (said.out - combine(pair, (x, noise))).float().square().flatten(1).mean(1)}
        if self.gan:
            real = self._seen(self.noised(self.codes(batch), noise, t), t, batch, stop=True)
            parts["real"] = F.softplus(-self._rated(real, batch))
            parts["fake"] = F.softplus(self._rated(said, batch))
        return parts

    def _matching(self, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        x, t = self.made(batch, rng, progress), self.even(rng)
        x_t, _ = self.noise(x, t, rng)
        said = self._seen(x_t, t, batch)
        with torch.no_grad():
            real = self.model.guided(x_t, said.point, batch.cond).x0
        parts = {"match": matched(x, real, said.x0.detach())}
        if self.gan:
            parts["fool"] = self.gan * F.softplus(-self._rated(said, batch))
        return parts

    def _seen(self, x: Tensor, t: Tensor, batch: Batch, stop: bool = False) -> Estimate:
        """What the fake network says of x_t, with the features that the critic looks at."""
        fake = taps.record(self.fake, [self.site], stop) if self.gan else self.fake
        return fake(x, self.model.schedule.point(t), batch.cond)

    def _rated(self, said: Estimate, batch: Batch) -> Tensor:
        return self.critic(said.features, batch.label)[:, 0]
