"""The settings of what matches steps, distributions or fields. Cheap to import: the command line makes its flags from them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from reverie.core.bounds import STEPS, Bound
from reverie.core.errors import InputError
from reverie.core.task import TaskConfig
from reverie.diffusion.config import SampleConfig
from reverie.diffusion.teacher import FromTeacher
from reverie.distill.config import DistillConfig, LeapConfig

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from reverie.core.batch import Dataset, DataSpec
    from reverie.core.denoiser import Denoiser, NetDenoiser
    from reverie.distill.add import ADD
    from reverie.distill.dmd2 import DMD2
    from reverie.distill.drifting import Drifting
    from reverie.distill.guided import Guided
    from reverie.distill.ladd import LADD
    from reverie.distill.matching import Matching
    from reverie.distill.moments import Moments
    from reverie.distill.progressive import Progressive
    from reverie.distill.student import Student
    from reverie.solve import Sampler

Weight = Annotated[float, Bound(ge=0)]
Rate = Annotated[float, Bound(ge=0)]
Turns = Annotated[int, Bound(ge=1, le=100)]


@dataclass(frozen=True, kw_only=True)
class ProgressiveConfig(DistillConfig):
    """Progressive distillation: two steps of the teacher become one, again and again (Salimans & Ho 2022).

    Attributes:
        begin: steps of the first student, halved each round down to those that are drawn with (which it is a power of two times).
    """

    name: ClassVar[str] = "progressive"
    second_time: ClassVar[bool] = True

    begin: Annotated[int, STEPS] = 8

    def check(self, spec: DataSpec, sample: LeapConfig) -> None:
        self.rounds(sample)
        super().check(spec, sample)

    def rounds(self, sample: LeapConfig) -> list[int]:
        """Steps of the student in each round.

        Raises:
            InputError: when halving does not lead from the first to the last.
        """
        rounds = [self.begin]
        while rounds[-1] > sample.steps and rounds[-1] % 2 == 0:
            rounds.append(rounds[-1] // 2)
        if rounds[-1] != sample.steps:
            raise InputError(
                f"--begin {self.begin} is not halved down to {sample.steps} steps: give {sample.steps} times a power of two, such as "
                f"--begin {8 * sample.steps}"
            )
        return rounds

    def task(self, model: Student, data: Dataset, held_out: Dataset, sample: LeapConfig, seed: int) -> Progressive:
        from reverie.distill.progressive import Progressive

        return Progressive(model, self.rounds(sample), sample.grid or "time", held_out=held_out)


@dataclass(frozen=True, kw_only=True)
class GuidedConfig(FromTeacher):
    """Guidance distilled into an input: one evaluation at any scale in place of two (Meng et al. 2023, stage 1).

    Attributes:
        highest: scale that it learns; the lowest is 1.
    """

    name: ClassVar[str] = "guided"

    highest: Annotated[float, Bound(gt=1)] = 5.0

    def of(self, taught: TaskConfig, sample: Any) -> Self:
        known = super().of(taught, sample)
        if known.denoising.drop == 0.0:
            raise InputError(
                f"{self.teacher} was trained with drop 0, so it cannot be guided: there is no guidance to distil"
            )
        return known

    def build(self, spec: DataSpec, seed: int, folder: Path | None = None) -> Student:
        from reverie.distill.guided import SCALE
        from reverie.distill.student import Student, hearing

        return Student(
            hearing(self.teaching(spec, seed, folder), SCALE, seed=seed), lambda: self.teaching(spec, seed, folder)
        )

    def modules(self, model: Student) -> Mapping[str, nn.Module]:
        return {"student": model.denoise.net}

    def describe(self, model: Student, spec: DataSpec) -> dict[str, str]:
        return self.denoising.describe(model.denoise, spec)

    def open(self, model: Student, spec: DataSpec) -> NetDenoiser:
        return self.denoising.open(model.denoise, spec)

    def task(self, model: Student, data: Dataset, held_out: Dataset, sample: SampleConfig, seed: int) -> Guided:
        from reverie.diffusion.building import times
        from reverie.distill.guided import Guided

        return Guided(model, times(self.denoising, model.schedule), self.highest, held_out=held_out)

    def generator(self, opened: Denoiser, sample: SampleConfig) -> Sampler:
        from reverie.distill.guided import at_scale

        told = at_scale(opened, sample.scale, sample.guide_below)
        return self.denoising.generator(told, replace(sample, scale=1.0))


@dataclass(frozen=True, kw_only=True)
class MatchingConfig(DistillConfig):
    """What those share that make the student's samples look like the teacher's: it is made for its own number of steps."""

    fixed: ClassVar[bool] = True
    slower: ClassVar[float | None] = 10

    @abstractmethod
    def method(self, model: Student, held_out: Dataset, sample: LeapConfig) -> Matching:
        """What trains the student."""

    def task(self, model: Student, data: Dataset, held_out: Dataset, sample: LeapConfig, seed: int) -> Matching:
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.method(model, held_out, sample)

    def sites(self, model: Student) -> list[str]:
        """Where inside of the teacher features are read: after each block."""
        from reverie.distill.matching import blocks

        return blocks(model.teacher)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True, kw_only=True)
class DMD2Config(MatchingConfig):
    """DMD2: the student's samples follow the difference of two scores, and fool a critic of noised pictures (Yin et al. 2024).

    Attributes:
        gan: weight of the critic in the student's loss; 0 for none.
        ratio: turns of the network that learns the student's score to one of the student.
        fake_lr: learning rate of that network; as the student's without.
    """

    name: ClassVar[str] = "dmd2"

    gan: Weight = 3e-3
    ratio: Turns = 2
    fake_lr: Rate | None = None

    def method(self, model: Student, held_out: Dataset, sample: LeapConfig) -> DMD2:
        from reverie.diffusion.building import times
        from reverie.distill.dmd2 import DMD2

        return DMD2(
            model,
            sample.steps,
            sample.grid or "time",
            times=times(self.denoising, model.schedule),
            gan=self.gan,
            ratio=self.ratio,
            fake_lr=self.fake_lr,
            held_out=held_out,
        )


@dataclass(frozen=True, kw_only=True)
class CriticConfig(MatchingConfig):
    """What ADD and LADD choose.

    Attributes:
        critic_lr: learning rate of the critic.
        r1: weight of the penalty on the critic's slope at features of data.
    """

    critic_lr: Rate = 1e-3
    r1: Weight = 1e-5


@dataclass(frozen=True, kw_only=True)
class ADDConfig(CriticConfig):
    """Adversarial diffusion distillation: the student fools a critic and agrees with its teacher (Sauer et al. 2024).

    Attributes:
        looks: whose features the critic sees: the teacher's own, or those of EfficientNet-Lite0.
        weight: of the agreement with the teacher.
    """

    name: ClassVar[str] = "add"

    looks: Literal["teacher", "efficientnet"] = "teacher"
    weight: Weight = 2.5

    def method(self, model: Student, held_out: Dataset, sample: LeapConfig) -> ADD:
        from reverie.distill import add
        from reverie.distill.matching import Critic, classes_of, shapes

        if self.looks == "teacher":
            sites = self.sites(model)
            looks, seen = add.Inside(model.teacher, sites), shapes(model.teacher, sites)  # pyright: ignore[reportArgumentType]
        else:
            looks, seen = add.General(model.space), {"features": (1280,)}
        critic = Critic(seen, classes_of(model.teacher))
        how = (sample.steps, sample.grid or "time")
        return add.ADD(
            model,
            *how,
            looks=looks,
            critic=critic,
            critic_lr=self.critic_lr,
            r1=self.r1,
            weight=self.weight,
            held_out=held_out,
        )


@dataclass(frozen=True, kw_only=True)
class LADDConfig(CriticConfig):
    """Latent adversarial diffusion distillation: a critic of the teacher's features at all levels of noise (Sauer et al. 2024)."""

    name: ClassVar[str] = "ladd"

    def method(self, model: Student, held_out: Dataset, sample: LeapConfig) -> LADD:
        from reverie.distill.ladd import LADD

        return LADD(model, sample.steps, sample.grid or "time", critic_lr=self.critic_lr, r1=self.r1, held_out=held_out)


@dataclass(frozen=True, kw_only=True)
class MomentsConfig(MatchingConfig):
    """Moment matching: of all that is noised to one state, the student's samples have the mean of the data (Salimans et al. 2024).

    Attributes:
        aux_lr: learning rate of the network that learns the student's means; as the student's without.
    """

    name: ClassVar[str] = "moments"

    aux_lr: Rate | None = None

    def method(self, model: Student, held_out: Dataset, sample: LeapConfig) -> Moments:
        from reverie.distill.moments import Moments

        return Moments(model, sample.steps, sample.grid or "time", aux_lr=self.aux_lr, held_out=held_out)


@dataclass(frozen=True, kw_only=True)
class DriftingConfig(MatchingConfig):
    """Drifting: the student's samples drift to where data is denser than they are, as it trains (Deng et al. 2026). One step alone.

    Attributes:
        field: the paper's, or that of a loss (Franz et al. 2026).
    """

    name: ClassVar[str] = "drifting"
    slower: ClassVar[float | None] = 3

    field: Literal["paper", "sharp"] = "paper"

    def check(self, spec: DataSpec, sample: LeapConfig) -> None:
        if sample.steps != 1:
            raise InputError(f"drifting makes a generator of one step: leave --steps {sample.steps} out")
        super().check(spec, sample)

    def method(self, model: Student, held_out: Dataset, sample: LeapConfig) -> Drifting:
        from reverie.distill import add
        from reverie.distill.drifting import Drifting

        looks = add.Inside(model.teacher, self.sites(model))  # pyright: ignore[reportArgumentType]
        return Drifting(model, looks=looks, by=self.field, held_out=held_out)
