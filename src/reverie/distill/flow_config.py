"""The settings of methods that learn a flow map. Cheap to import: the command line makes its flags from them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from reverie.core.bounds import Bound
from reverie.core.errors import InputError
from reverie.distill.config import DistillConfig, LeapConfig

if TYPE_CHECKING:
    from reverie.core.batch import Dataset, DataSpec
    from reverie.core.task import Task
    from reverie.distill.student import Student

Share = Annotated[float, Bound(ge=0, le=1)]
Positive = Annotated[float, Bound(gt=0)]


@dataclass(frozen=True, kw_only=True)
class FlowMapConfig(DistillConfig):
    """What all of them choose."""

    second_time: ClassVar[bool] = True
    guides_data: ClassVar[bool] = True
    """Whether what learns from data alone can be guided while it learns."""

    @property
    def taught(self) -> bool:
        """Whether the teacher says where the flow goes; else data do."""
        return not self.scratch

    def of(self, taught: Any, sample: Any) -> Self:
        known = super().of(taught, sample)
        plain = self.scale is None and not self.taught and not self.guides_data
        return replace(known, scale=1.0) if plain else known

    def check(self, spec: DataSpec, sample: LeapConfig) -> None:
        if not self.taught and not self.guides_data and self.scale not in (None, 1.0):
            raise InputError(f"{self.name} learns from data here, which nothing guides: leave scale out")
        super().check(spec, sample)


@dataclass(frozen=True, kw_only=True)
class ConsistencyConfig(FlowMapConfig):
    """A consistency model: from any point of a flow straight to its end (Song et al. 2023). Several steps renoise between them.

    Attributes:
        variant: cd, neighbours on the teacher's flow; ct, on the line of one sample and its noise; ict, the same with robust errors and a
            grid that doubles (Song & Dhariwal 2024); ect, pairs that close in on each other from apart (Geng et al. 2024).
        scales: points of the grid of cd; what that of ct and ict ends with.
    """

    name: ClassVar[str] = "consistency"
    second_time: ClassVar[bool] = False
    guides_data: ClassVar[bool] = False

    variant: Literal["cd", "ct", "ict", "ect"] = "cd"
    scales: Annotated[int, Bound(ge=2, le=100_000)] | None = None

    @property
    def taught(self) -> bool:
        return self.variant == "cd"

    def resolved(self) -> Self:
        usual = {"cd": 18, "ct": 150, "ict": 1280, "ect": None}[self.variant]
        return replace(super().resolved(), scales=self.scales or usual)

    def check(self, spec: DataSpec, sample: LeapConfig) -> None:
        if self.variant == "ect" and self.scales is not None:
            raise InputError("the variant ect has no grid: leave scales out")
        super().check(spec, sample)

    def task(self, model: Student, data: Dataset, held_out: Dataset, sample: LeapConfig, seed: int) -> Task:
        from reverie.distill.consistency import TASKS

        return TASKS[self.variant](model, self, held_out)


@dataclass(frozen=True, kw_only=True)
class SCMConfig(FlowMapConfig):
    """A consistency model in continuous time (Lu & Song 2024).

    Attributes:
        variant: scd, along the teacher's flow; sct, along the lines of samples and their noise.
        times_mean: of ln(σ/α), which is normal.
        times_std: its standard deviation.
        warmup: share of the training in which the tangent's unstable part comes in.
    """

    name: ClassVar[str] = "scm"
    slower: ClassVar[float | None] = 3
    slow_time: ClassVar[bool] = True
    second_time: ClassVar[bool] = False
    guides_data: ClassVar[bool] = False

    variant: Literal["scd", "sct"] = "scd"
    times_mean: float = -1.0
    times_std: Positive = 1.4
    warmup: Share = 0.1

    @property
    def taught(self) -> bool:
        return self.variant == "scd"

    def task(self, model: Student, data: Dataset, held_out: Dataset, sample: LeapConfig, seed: int) -> Task:
        from reverie.distill.scm import SCM

        return SCM(model, self, held_out)


@dataclass(frozen=True, kw_only=True)
class MeanFlowConfig(FlowMapConfig):
    """A network that says the mean velocity between two times (Geng et al. 2025).

    Attributes:
        times_mean: of logit(τ), which is normal at both ends of a leap.
        times_std: its standard deviation; the paper's is 1 (and the mean -0.4), which hardly looks at leaps of the whole flow.
        apart: share of the samples whose leap has any length.
        power: of the error by which it is divided; 0 is the plain squared error.
        improved: from scratch, take derivatives along what the network itself says of the velocity, not along a sample's (iMF).
    """

    name: ClassVar[str] = "meanflow"
    slow_time: ClassVar[bool] = True

    times_mean: float = 0.0
    times_std: Positive = 2.0
    apart: Share = 0.75
    power: Share = 1.0
    improved: bool = False

    def check(self, spec: DataSpec, sample: LeapConfig) -> None:
        if self.improved and self.taught:
            raise InputError("the teacher says the velocity: improved is for --scratch")
        super().check(spec, sample)

    def task(self, model: Student, data: Dataset, held_out: Dataset, sample: LeapConfig, seed: int) -> Task:
        from reverie.distill.meanflow import MeanFlow

        return MeanFlow(model, self, held_out)


@dataclass(frozen=True, kw_only=True)
class ShortcutConfig(FlowMapConfig):
    """A network whose long leaps are two of half the length (Frans et al. 2025).

    Attributes:
        levels: times that the shortest leap doubles until it is the whole flow.
        bootstrapped: share of the samples that learn a leap from two; the others learn the velocity.
        decay: what a step leaves of the average that makes the two.
    """

    name: ClassVar[str] = "shortcut"

    levels: Annotated[int, Bound(ge=1, le=20)] = 7
    bootstrapped: Share = 0.25
    decay: Share = 0.999

    def task(self, model: Student, data: Dataset, held_out: Dataset, sample: LeapConfig, seed: int) -> Task:
        from reverie.distill.shortcut import Shortcut

        return Shortcut(model, self, held_out)


@dataclass(frozen=True, kw_only=True)
class IMMConfig(FlowMapConfig):
    """Inductive moment matching: leaps from two near times end in one distribution (Zhou et al. 2025).

    Attributes:
        halvings: k; the nearer time is 2⁻ᵏ of the whole range of σ/α below.
        group: samples of one time whose distributions are compared.
        bias: b of the weight ``sigmoid(b − logsnr)``.
        exponent: a of the weight's ``αᵃ``.
    """

    name: ClassVar[str] = "imm"
    guides_data: ClassVar[bool] = False

    halvings: Annotated[int, Bound(ge=1, le=30)] = 12
    group: Annotated[int, Bound(ge=1, le=65_536)] = 4
    bias: float = 4.0
    exponent: Annotated[float, Bound(ge=0)] = 1.0

    def task(self, model: Student, data: Dataset, held_out: Dataset, sample: LeapConfig, seed: int) -> Task:
        from reverie.distill.imm import IMM

        return IMM(model, self, held_out)


@dataclass(frozen=True, kw_only=True)
class TVMConfig(FlowMapConfig):
    """Terminal velocity matching: where a leap ends, it moves as the flow does there.

    Attributes:
        gap_mean: of the logit of a leap's length, which is normal.
        gap_std: its standard deviation.
        times_mean: of logit(τ), which is normal where a leap ends.
        times_std: its standard deviation.
        decay: from scratch, what a step leaves of the average that says the velocity.
    """

    name: ClassVar[str] = "tvm"

    gap_mean: float = -0.8
    gap_std: Positive = 1.0
    times_mean: float = -0.4
    times_std: Positive = 1.0
    decay: Share = 0.999

    def task(self, model: Student, data: Dataset, held_out: Dataset, sample: LeapConfig, seed: int) -> Task:
        from reverie.distill.tvm import TVM

        return TVM(model, self, held_out)
