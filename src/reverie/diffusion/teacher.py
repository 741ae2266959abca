"""Tasks that begin with a diffusion model of another run. Cheap to import: the command line makes its flags from these classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from tyro.conf import Suppress

from reverie.core.bounds import STEPS, Bound
from reverie.core.errors import InputError
from reverie.core.task import Given, Sweep, TaskConfig
from reverie.diffusion.config import DenoisingConfig, SampleConfig

if TYPE_CHECKING:
    from torch import nn

    from reverie.core.batch import Dataset, DataSpec
    from reverie.core.denoiser import Denoiser, NetDenoiser
    from reverie.diffusion.genie import Genie, WithHead
    from reverie.diffusion.reflow import Reflow
    from reverie.learn.config import TrainConfig
    from reverie.solve import Sampler


@dataclass(frozen=True, kw_only=True)
class FromRun(TaskConfig):
    """What all tasks that begin with the model of another run choose. The run keeps a copy of that model, so either folder may move.

    Attributes:
        model: the settings of its model, inferred.
    """

    Sample: ClassVar[type] = SampleConfig
    by: ClassVar[str] = "teacher"
    """The setting that names the folder of the other run."""
    elsewhere: ClassVar[bool] = False
    """Whether its data may be others than the other model's; they are read in the size and the channels of those."""
    reads: ClassVar[bool] = False
    """Whether the other model may be one that is told texts."""

    model: Annotated[DenoisingConfig | None, Suppress] = None

    def of(self, taught: TaskConfig, sample: Any) -> Self:
        """The settings with those of the teacher's model filled in, from the task of its run and how that draws.

        Raises:
            InputError: when that trained no diffusion model of its own data.
        """
        model = taught.model if isinstance(taught, FromTeacher) else taught
        if not isinstance(model, DenoisingConfig):
            raise InputError(
                f"{self.name} begins with a diffusion model: {self.source} is a run of the task {taught.name}"
            )
        return replace(self, model=model)

    def told(self, classes: tuple[str, ...], length: int) -> Self:
        """The settings with the classes that the other model is told, or the most tokens of its texts: where its data may be others."""
        return self

    def drawing(self, own: Any, taught: Any) -> Any:
        """How it is drawn from, of what it was told itself and how the other model is drawn from."""
        return own

    def training(self, taught: TrainConfig) -> TrainConfig:
        """How it is trained unless told otherwise, from how the teacher was."""
        return taught

    @property
    def denoising(self) -> DenoisingConfig:
        """The settings of the model."""
        if self.model is None:
            raise InputError(f"the task {self.name} begins with a trained model: give --{self.by} RUN")
        return self.model

    @property
    def source(self) -> str:
        """The folder of the other run."""
        return getattr(self, self.by)

    def check(self, spec: DataSpec, sample: SampleConfig) -> None:
        self.denoising.check(spec, sample)

    def prepare(self, given: Given) -> None:
        from reverie.diffusion.taught import prepare_teacher

        prepare_teacher(self.source, given, self.reads)

    def teaching(self, spec: DataSpec, seed: int, folder: Path | None) -> NetDenoiser:
        """The model with the teacher's weights; before :meth:`prepare`, with fresh ones."""
        from reverie.diffusion.taught import begin

        return begin(self.denoising.build(spec, seed, folder), folder)

    def open(self, model: Any, spec: DataSpec) -> Any:
        return self.denoising.open(model, spec)

    def generator(self, opened: Denoiser, sample: SampleConfig) -> Sampler:
        return self.denoising.generator(opened, sample)

    def next(self, run: str, data: str) -> str:
        return self.denoising.next(run, data)

    @property
    def unlabelled(self) -> bool:
        return self.denoising.unlabelled

    def usual(self, sample: SampleConfig) -> SampleConfig:
        return self.denoising.usual(sample)

    def sweep(self, sample: SampleConfig) -> Sweep | None:
        return self.denoising.sweep(sample)


@dataclass(frozen=True, kw_only=True)
class FromTeacher(FromRun):
    """A task whose model learns from the other one.

    Attributes:
        teacher: folder of its run.
    """

    teacher: str = ""


@dataclass(frozen=True, kw_only=True)
class ReflowConfig(FromTeacher):
    """Straighten the flow of a diffusion model, so that it draws in fewer steps (Liu et al. 2023): train it again on its own pairs.

    Attributes:
        pairs: of noise and the sample that the teacher makes of it, to learn from.
        steps: of the solver that makes them.
    """

    name: ClassVar[str] = "reflow"
    reads: ClassVar[bool] = True

    pairs: Annotated[int, Bound(ge=1, le=10_000_000)] = 20_000
    steps: Annotated[int, STEPS] = 50

    def prepare(self, given: Given) -> None:
        from reverie.diffusion.reflow import prepare_pairs

        super().prepare(given)
        prepare_pairs(self, given)

    def build(self, spec: DataSpec, seed: int, folder: Path | None = None) -> NetDenoiser:
        return self.teaching(spec, seed, folder)

    def modules(self, model: NetDenoiser) -> Mapping[str, nn.Module]:
        return self.denoising.modules(model)

    def examples(self, data: Dataset, held_out: Dataset, folder: Path, codes: Path) -> tuple[Dataset, Dataset]:
        from reverie.diffusion.reflow import kept_pairs

        return kept_pairs(self, folder, data.spec)

    def task(self, model: NetDenoiser, data: Dataset, held_out: Dataset, sample: SampleConfig, seed: int) -> Reflow:
        from reverie.diffusion.building import unseen
        from reverie.diffusion.reflow import Reflow

        own = self.denoising
        return Reflow(model, drop=own.drop, loss_kind=own.loss_kind, held_out=unseen(held_out))

    def describe(self, model: NetDenoiser, spec: DataSpec) -> dict[str, str]:
        return self.denoising.describe(model, spec)


@dataclass(frozen=True, kw_only=True)
class GenieConfig(FromTeacher):
    """Distil the derivative of a diffusion model's flow into a small head, for second-order steps of one evaluation (Dockhorn et al. 2022).

    With the solver auto it draws by GENIE with the head, unguided; with any other it is the teacher.

    Attributes:
        width: features of the head.
        depth: its layers.
    """

    name: ClassVar[str] = "genie"

    width: Annotated[int, Bound(ge=1, le=65_536)] = 64
    depth: Annotated[int, Bound(ge=1, le=1_000)] = 3

    def build(self, spec: DataSpec, seed: int, folder: Path | None = None) -> WithHead:
        from reverie.diffusion.genie import build

        return build(self, spec, seed, folder)

    def modules(self, model: WithHead) -> Mapping[str, nn.Module]:
        from torch import nn

        return {"head": nn.ModuleDict({"head": model.head})}

    def task(self, model: WithHead, data: Dataset, held_out: Dataset, sample: SampleConfig, seed: int) -> Genie:
        from reverie.diffusion.building import unseen
        from reverie.diffusion.genie import Genie

        return Genie(model, held_out=unseen(held_out))

    def describe(self, model: WithHead, spec: DataSpec) -> dict[str, str]:
        return {**super().describe(model, spec), "shape": "x".join(map(str, model.shape)), "kind": "genie head"}

    def open(self, model: WithHead, spec: DataSpec) -> WithHead:
        model.base.net.eval().requires_grad_(False)  # pyright: ignore[reportAttributeAccessIssue]
        self.denoising.open(model.base, spec)  # pyright: ignore[reportArgumentType]
        return model

    def usual(self, sample: SampleConfig) -> SampleConfig:
        return replace(sample, scale=1.0)

    def sweep(self, sample: SampleConfig) -> None:
        return None

    def generator(self, opened: WithHead, sample: SampleConfig) -> Sampler:  # pyright: ignore[reportIncompatibleMethodOverride]
        from reverie.solve import Sampler

        if sample.solver != "auto":
            return self.denoising.generator(opened.base, sample)
        if sample.scale != 1.0:
            raise InputError(
                "the head knows the flow of the model as it is: draw at scale 1, or with another solver than auto"
            )
        return Sampler(opened, opened.solver, sample.steps, sample.grid or "quadratic")
