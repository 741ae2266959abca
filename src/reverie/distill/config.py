"""The settings of distillation. Cheap to import: the command line makes its flags from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from tyro.conf import Suppress

from reverie.core.bounds import STEPS, Bound
from reverie.core.errors import InputError
from reverie.core.names import GridName
from reverie.core.task import Sweep, TaskConfig
from reverie.diffusion.config import SampleConfig
from reverie.diffusion.teacher import FromTeacher

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from reverie.core.batch import Dataset, DataSpec
    from reverie.core.generator import Generator
    from reverie.distill.student import Student
    from reverie.learn.config import TrainConfig

LEAPS = (1, 2, 4, 8)
"""Steps that a report shows side by side, and that are always measured."""


@dataclass(frozen=True, kw_only=True)
class LeapConfig:
    """How a flow map is drawn from.

    Attributes:
        steps: evaluations of the network.
        grid: where the leaps end; uniform in time without.
        renoise: each leap goes to clean data and is noised again for the next; as the method was trained without.
        teacher: draw from the teacher, as its own recipe says, in place of the student.
    """

    steps: Annotated[int, STEPS] = 1
    grid: GridName | None = None
    renoise: bool | None = None
    teacher: bool = False


@dataclass(frozen=True, kw_only=True)
class DistillConfig(FromTeacher):
    """What all methods choose. The student is the teacher's network, on its path, with its weights to begin with.

    Attributes:
        scale: guidance of the teacher, which the student learns; that of its recipe without.
        scratch: begin with fresh weights, of a method that learns from data too.
        drawn: how the teacher's recipe draws, inferred.
    """

    Sample: ClassVar[type] = LeapConfig
    reads: ClassVar[bool] = True
    second_time: ClassVar[bool] = False
    """Whether the network is told where a leap ends."""
    slow_time: ClassVar[bool] = False
    """Whether the loss differentiates the network in time, so that it must not read the time by fast sinusoids."""
    fixed: ClassVar[bool] = False
    """Whether the student is made for the steps of its recipe only."""

    slower: ClassVar[float | None] = None
    """How many times slower than AdamW was for the teacher the student moves, by AdamW, where what it is held to moves with it: the scores
    of its own samples, a critic, its own derivative. Without, it is trained as the teacher was."""

    scale: Annotated[float, Bound(ge=0)] | None = None
    scratch: bool = False
    drawn: Annotated[SampleConfig | None, Suppress] = None

    def of(self, taught: TaskConfig, sample: Any) -> Self:
        if isinstance(taught, DistillConfig):
            raise InputError(
                f"{self.teacher} is itself a distilled run, a flow map made by {taught.name}: a teacher is a diffusion model, "
                f"such as the one that it was distilled from, {taught.teacher}"
            )
        known = super().of(taught, sample)
        if not isinstance(sample, SampleConfig):
            raise InputError(f"{self.teacher} draws as no diffusion model does: {self.name} learns from one that does")
        able = known.denoising.drop > 0.0
        if self.scale not in (None, 1.0) and not able:
            raise InputError(
                f"{self.teacher} was trained with drop 0, so it cannot be guided: use --scale 1, or a teacher trained with drop 0.1"
            )
        scale = self.scale if self.scale is not None else sample.scale if able else 1.0
        return replace(known, scale=scale, drawn=replace(sample, scale=scale))

    def training(self, taught: TrainConfig) -> TrainConfig:
        if self.slower is None:
            return taught
        rate = taught.adam_lr if taught.optimizer == "muon" else taught.lr
        return replace(taught, optimizer="adamw", lr=rate / self.slower)

    def check(self, spec: DataSpec, sample: LeapConfig) -> None:
        self.build(spec, 0)

    def build(self, spec: DataSpec, seed: int, folder: Path | None = None) -> Student:
        from reverie.distill.student import build

        return build(self, spec, seed, folder)

    def examples(self, data: Dataset, held_out: Dataset, folder: Path, codes: Path) -> tuple[Dataset, Dataset]:
        """With what is said of them in words."""
        from reverie.diffusion.texts import captioned

        text = self.denoising.text
        return captioned(text, data, data, folder), captioned(text, held_out, held_out, folder, plain=True)

    def modules(self, model: Student) -> dict[str, nn.Module]:
        return {"student": model.denoise.net}

    def describe(self, model: Student, spec: DataSpec) -> dict[str, str]:
        about = {"shape": "x".join(map(str, model.shape)), "kind": model.denoise.kind.name}
        return {**TaskConfig.describe(self, model, spec), **about}

    def open(self, model: Student, spec: DataSpec) -> Student:
        self.denoising.open(model.denoise, spec)
        return model

    def generator(self, opened: Student, sample: LeapConfig) -> Generator:  # pyright: ignore[reportIncompatibleMethodOverride]
        from reverie.solve import Leaps

        if sample.teacher:
            return self.denoising.generator(opened.teacher, self.drawn or SampleConfig())
        return Leaps(opened, sample.steps, sample.grid, sample.renoise)

    @property
    def unlabelled(self) -> bool:
        return False

    def usual(self, sample: LeapConfig) -> LeapConfig:  # pyright: ignore[reportIncompatibleMethodOverride]
        return sample

    def measured(self, sample: LeapConfig) -> Sequence[LeapConfig]:
        rest = (replace(sample, steps=n, teacher=False) for n in LEAPS if n != sample.steps)
        return sample, *rest, replace(sample, teacher=True)

    def sweep(self, sample: LeapConfig) -> Sweep:  # pyright: ignore[reportIncompatibleMethodOverride]
        rows: dict[str, Any] = {str(n): replace(sample, steps=n) for n in sorted({*LEAPS, sample.steps})}
        return Sweep("Steps", "The same noise in more evaluations of the network, and what the teacher makes of it.",
                     {**rows, f"teacher, {(self.drawn or SampleConfig()).steps}": replace(sample, teacher=True)})  # fmt: skip
