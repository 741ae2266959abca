"""The tasks of diffusion as recipes name them. Cheap to import: the command line makes its flags from these classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from reverie.core.bounds import STEPS, Bound
from reverie.core.names import GridName
from reverie.core.task import Given, Sweep, TaskConfig
from reverie.nets.config import CONFIGS, DEFAULT, EncoderConfig, NetConfig, TextConfig
from reverie.spaces.config import SpaceConfig

if TYPE_CHECKING:
    from torch import nn

    from reverie.core.batch import Dataset, DataSpec
    from reverie.core.denoiser import Denoiser, NetDenoiser
    from reverie.diffusion.classifying import Classifying
    from reverie.diffusion.denoising import Denoising
    from reverie.guide.classifier import NetClassifier
    from reverie.solve import Sampler

SCALES = (1.0, 1.5, 2.0, 3.0, 5.0)
"""Guidance scales that a report shows side by side."""


def guidance(sample: Any, scales: Sequence[float]) -> Sweep:
    """Settings of drawing at several guidance scales, their own among them."""
    text = (
        "The same noise at growing guidance scales. Scale 1 is the model as it is; larger scales are more typical of their class and "
        "less varied."
    )
    return Sweep(
        "Guidance", text, {f"{scale:g}": replace(sample, scale=scale) for scale in sorted({*scales, sample.scale})}
    )


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """How pictures are drawn unless told otherwise.

    Attributes:
        solver: auto (the run's calibration for so many steps, or the measured best), default (the latter without asking the network),
            stochastic, or one by name: ddim, ddpm, churn, deis2, deis3, dpmpp2, dpmpp3, dpmpp2s, euler, eulermaruyama, heun, sdedpmpp2,
            unipc2, unipc3.
        steps: of the solver.
        grid: where the steps are taken; as suits the solver without.
        scale: guidance for models of classes; 1 is the model as it is.
        guide_below: guide only where the logsnr is below this, where the picture is decided (Kynkäänniemi et al. 2024); everywhere without.
        temperature: of the noise that a run begins from; below 1 pictures lie nearer to the middle and are less varied.
    """

    solver: str = "auto"
    steps: Annotated[int, STEPS] = 20
    grid: GridName | None = None
    scale: float = 2.0
    guide_below: float | None = None
    temperature: Annotated[float, Bound(gt=0)] = 1.0


@dataclass(frozen=True, kw_only=True)
class RestoreConfig:
    """How restorations are drawn unless told otherwise.

    Attributes:
        solver: auto, default, stochastic, or one by name, as of a diffusion model.
        steps: of the solver.
        grid: where the steps are taken; as suits the solver without.
    """

    solver: str = "auto"
    steps: Annotated[int, STEPS] = 20
    grid: GridName | None = None


@dataclass(frozen=True, kw_only=True)
class OnPath(TaskConfig):
    """What all tasks on a path of noise choose.

    Attributes:
        space: what is diffused.
        schedule: the path from data to noise: flow, cosine, vp, subvp, ve, edm, trigonometric, ddpm, scaled_linear or squaredcos_cap_v2.
        time: what the network is told of the time: t, or ¼·log(σ/α).
        times: density of the training times; of lognormal-sigma ln(σ/α) is normal, as EDM's (Karras et al. 2022).
        times_mean: mean of logit(t) for logit-normal times, 0 without; of ln(σ/α) for lognormal-sigma, log(data_std/0.5) - 1.2 without.
        times_std: their standard deviation, 1 for logit-normal times without, 1.2 for lognormal-sigma; 0 is one noise
            level.
    """

    space: SpaceConfig = field(default_factory=SpaceConfig)
    schedule: str = "flow"
    time: Literal["t", "log_sigma"] = "t"
    times: Literal["logit-normal", "uniform", "logsnr", "lognormal-sigma"] = "logit-normal"
    times_mean: float | None = None
    times_std: Annotated[float, Bound(ge=0)] | None = None

    def resolved(self) -> Self:
        usual_mean, usual_std = 0.0, 1.0
        if self.times == "lognormal-sigma":
            usual_mean, usual_std = math.log((getattr(self, "data_std", None) or 0.5) / 0.5) - 1.2, 1.2
        mean = usual_mean if self.times_mean is None else self.times_mean
        return replace(self, times_mean=mean, times_std=usual_std if self.times_std is None else self.times_std)

    def check(self, spec: DataSpec, sample: Any) -> None:
        from reverie.diffusion.building import check_fed

        if not Path(self.space.name).expanduser().is_dir():  # of another run's space nothing is known yet
            check_fed(self.build(spec, 0), spec)

    def prepare(self, given: Given) -> None:
        from reverie.diffusion.building import prepare_space

        prepare_space(self.space, given)


@dataclass(frozen=True, kw_only=True)
class DenoisingConfig(OnPath):
    """A diffusion model: the path, what the network predicts on it, and where training looks.

    Attributes:
        net: the network.
        kind: what the network predicts.
        objective: simple, the squared error; hybrid, beside it the variance of a network that gives one (net.learn_sigma); vlb, the
            variational bound.
        data_std: of the data: scales the network's input to unit variance, as it is without; and the kind edm and the lognormal-sigma times
            are for data of it, of 0.5 without.
        loss_kind: the kind in which the error is measured; the network's own without.
        drop: share of the images whose label or caption is dropped, so that guidance works.
        augment: probability of each change of the training pictures (mirrored, turned, scaled, stretched, moved) that the network is told
            of, so that it draws none of them (Karras et al. 2022: .12 for CIFAR-10); 0 for none.
        text: how captions are read, for data that has them.
        prior: correct the exact denoiser of one Gaussian a class with this many axes, fitted to the data, in place of learning all of it;
            needs a network that takes a picture as condition (dit, unet).
        prior_captions: remember the captions of so many pictures, so that the Gaussian lies around what is expected of a picture so
            called.
        prior_neighbours: show the network the pictures of so many nearest captions too.
    """

    name: ClassVar[str] = "denoising"
    Sample: ClassVar[type] = SampleConfig
    maps: ClassVar[Literal["maps", "boxes"] | None] = "maps"

    net: NetConfig = field(default_factory=CONFIGS[DEFAULT])
    kind: Literal["flow", "v", "x0", "eps", "straight", "edm"] = "flow"
    objective: Literal["simple", "hybrid", "vlb"] = "simple"
    data_std: Annotated[float, Bound(gt=0)] | None = None
    loss_kind: Literal["flow", "v", "x0", "eps", "straight", "edm"] | None = None
    drop: Annotated[float, Bound(ge=0, le=1)] = 0.1
    augment: Annotated[float, Bound(ge=0, le=1)] = 0.0
    prior: Annotated[int, Bound(ge=1, le=65_536)] | None = None
    prior_captions: Annotated[int, Bound(ge=2, le=16_384)] | None = None
    prior_neighbours: Annotated[int, Bound(ge=0, le=64)] = 0
    text: TextConfig = field(default_factory=TextConfig)

    def resolved(self) -> Self:
        return replace(super().resolved(), text=self.text.resolved())

    def check(self, spec: DataSpec, sample: SampleConfig) -> None:
        from reverie.diffusion.building import check_objective, solving

        solving(sample)
        check_objective(self)
        super().check(spec, sample)

    def examples(self, data: Dataset, held_out: Dataset, folder: Path, codes: Path) -> tuple[Dataset, Dataset]:
        """The codes of the data, made once, where a space is diffused; with what is said of them in words."""
        from reverie.diffusion.building import coded
        from reverie.diffusion.texts import captioned

        pixels = self.space.name == "pixels"
        seen, unseen = (data, held_out) if pixels else (coded(each, folder, codes) for each in (data, held_out))
        return captioned(self.text, data, seen, folder), captioned(self.text, held_out, unseen, folder, plain=True)

    def prepare(self, given: Given) -> None:
        from reverie.diffusion.reading import prepare_reading

        super().prepare(given)
        prepare_reading(self.text, given)

    def build(self, spec: DataSpec, seed: int, folder: Path | None = None) -> NetDenoiser:
        from reverie.diffusion.building import denoiser

        return denoiser(self, spec, seed, folder)

    def modules(self, model: NetDenoiser) -> dict[str, nn.Module]:
        from reverie.diffusion.texts import reader_of

        own = reader_of(model)
        return {"denoiser": model.net} if own is None else {"denoiser": model.net, "text": own}

    def task(self, model: NetDenoiser, data: Dataset, held_out: Dataset, sample: SampleConfig, seed: int) -> Denoising:
        from reverie.diffusion.building import denoising

        return denoising(self, model, data, held_out, sample, seed)

    def describe(self, model: NetDenoiser, spec: DataSpec) -> dict[str, str]:
        shape, read = "x".join(map(str, model.shape)), getattr(model.conditioner.text, "described", {})
        return {**super().describe(model, spec), "shape": shape, "kind": model.kind.name, **read}

    def open(self, model: NetDenoiser, spec: DataSpec) -> NetDenoiser:
        from reverie.core.conditioner import Conditioner

        model.conditioner = Conditioner(model.conditions, spec.classes, model.conditioner.text)
        return model

    def generator(self, opened: Denoiser, sample: SampleConfig) -> Sampler:
        from reverie.diffusion.building import sampler

        return sampler(self, opened, sample)

    def next(self, run: str, data: str) -> str:
        return f"reverie sample {quote(run)}; reverie report {quote(run)}"

    @property
    def unlabelled(self) -> bool:
        return self.drop > 0.0

    def usual(self, sample: SampleConfig) -> SampleConfig:
        return replace(sample, scale=1.0) if self.drop == 0.0 else sample

    def sweep(self, sample: SampleConfig) -> Sweep | None:
        if self.drop == 0.0:
            return None
        return guidance(sample, SCALES)


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(OnPath):
    """A classifier of noisy pictures, which guides a diffusion model on any path (Dhariwal & Nichol 2021).

    Attributes:
        net: the network.
    """

    name: ClassVar[str] = "classifier"

    net: EncoderConfig = field(default_factory=EncoderConfig)

    def build(self, spec: DataSpec, seed: int, folder: Path | None = None) -> NetClassifier:
        from reverie.diffusion.building import classifier

        return classifier(self, spec, seed, folder)

    def modules(self, model: NetClassifier) -> dict[str, nn.Module]:
        return {"classifier": model.net}

    def task(self, model: NetClassifier, data: Dataset, held_out: Dataset, sample: Any, seed: int) -> Classifying:
        from reverie.diffusion.building import times, unseen
        from reverie.diffusion.classifying import Classifying

        return Classifying(model, times(self, model.schedule), held_out=unseen(held_out))

    def next(self, run: str, data: str) -> str:
        model = f"runs/{Path(data).name}"
        return f"reverie train --data {quote(data)}; reverie sample {quote(model)} --label 0 --guide classifier:{quote(run)}:2"

    def describe(self, model: NetClassifier, spec: DataSpec) -> dict[str, str]:
        shape = "x".join(map(str, model.shape))
        return {**super().describe(model, spec), "shape": shape, "kind": f"{model.classes} classes"}
