"""The settings of distillation. Cheap to import: the command line makes its flags from them."""

from __future__ import annotations

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

    from reverie.core.batch import DataSpec
    from reverie.distill.student import Student
    from reverie.solve import Leaps

LEAPS = (1, 2, 4, 8)
"""Steps that a report shows side by side, and that are always measured."""


@dataclass(frozen=True, kw_only=True)
class LeapConfig:
    """How a flow map is drawn from.

    Attributes:
        steps: evaluations of the network.
        grid: where the leaps end; uniform in time without.
        renoise: each leap goes to clean data and is noised again for the next; as the method was trained without.
    """

    steps: Annotated[int, STEPS] = 1
    grid: GridName | None = None
    renoise: bool | None = None


@dataclass(frozen=True, kw_only=True)
class DistillConfig(FromTeacher):
    """What all methods choose. The student is the teacher's network, on its path, with its weights to begin with.

    Attributes:
        scale: guidance of the teacher, which the student learns; that of its recipe without.
        scratch: begin with fresh weights, of a method that learns from data too.
        drawn: how the teacher's recipe draws, inferred.
    """

    Sample: ClassVar[type] = LeapConfig
    second_time: ClassVar[bool] = False
    """Whether the network is told where a leap ends."""

    scale: Annotated[float, Bound(ge=0)] | None = None
    scratch: bool = False
    drawn: Annotated[SampleConfig | None, Suppress] = None

    def of(self, taught: TaskConfig, sample: Any) -> Self:
        known = super().of(taught, sample)
        if not isinstance(sample, SampleConfig):
            raise InputError(f"{self.teacher} draws as no diffusion model does: {self.name} learns from one that does")
        able = known.denoising.drop > 0.0
        scale = self.scale if self.scale is not None else sample.scale if able else 1.0
        return replace(known, scale=scale, drawn=replace(sample, scale=scale))

    def check(self, spec: DataSpec, sample: LeapConfig) -> None:
        self.build(spec, 0)

    def build(self, spec: DataSpec, seed: int, folder: Path | None = None) -> Student:
        from reverie.distill.student import build

        return build(self, spec, seed, folder)

    def modules(self, model: Student) -> dict[str, nn.Module]:
        return {"student": model.denoise.net}

    def describe(self, model: Student, spec: DataSpec) -> dict[str, str]:
        about = {"shape": "x".join(map(str, model.shape)), "kind": model.denoise.kind.name}
        return {**TaskConfig.describe(self, model, spec), **about}

    def open(self, model: Student, spec: DataSpec) -> Student:
        self.denoising.open(model.denoise, spec)
        return model

    def generator(self, opened: Student, sample: LeapConfig) -> Leaps:  # pyright: ignore[reportIncompatibleMethodOverride]
        from reverie.solve import Leaps

        return Leaps(opened, sample.steps, sample.grid, sample.renoise)

    def usual(self, sample: LeapConfig) -> LeapConfig:  # pyright: ignore[reportIncompatibleMethodOverride]
        return sample

    def sweep(self, sample: LeapConfig) -> Sweep:  # pyright: ignore[reportIncompatibleMethodOverride]
        text = "The same noise in more evaluations of the network."
        return Sweep("Steps", text, {str(n): replace(sample, steps=n) for n in sorted({*LEAPS, sample.steps})})
