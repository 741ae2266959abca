"""The tasks of ``reverie adapt`` as recipes name them. Cheap to import: the command line makes its flags from these classes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from tyro.conf import Suppress

from reverie.core.bounds import Bound
from reverie.core.errors import InputError
from reverie.core.task import Given, TaskConfig
from reverie.diffusion.config import DenoisingConfig
from reverie.learn.config import TrainConfig

if TYPE_CHECKING:
    from torch import nn

    from reverie.adapt.adapter import Adapter
    from reverie.adapt.change import Change
    from reverie.adapt.training import Adapting, Personalising
    from reverie.core.batch import Dataset, DataSpec

DRAWN = "class.safetensors"
"""In a run's folder, the base's pictures of the class."""


@dataclass(frozen=True, kw_only=True)
class AdaptConfig(TaskConfig):
    """What all methods of personalisation choose. The run keeps a copy of the base, so either folder may move.

    Attributes:
        run: folder of the base, a diffusion model.
        model: the settings of the base, inferred.
        classes: of the base, inferred.
        token: what the model is told of the new pictures, such as <mine>; none for a model that is told nothing.
        like: the class, by name or number, or the word that the token begins at, and that prior preservation keeps; without, it begins at
            the mean of the classes, or at the word a.
        prompt: of a model of texts, {} where the token stands.
        preserve: weight of prior preservation; 0 for none.
        drawn: pictures of the class that the base draws for it.
    """

    run: Annotated[str, Suppress] = ""
    model: Annotated[DenoisingConfig | None, Suppress] = None
    classes: Annotated[tuple[str, ...], Suppress] = ()
    token: str | None = None
    like: str | None = None
    prompt: str = "a photo of {}"
    preserve: Annotated[float, Bound(ge=0)] = 0.0
    drawn: Annotated[int, Bound(ge=1, le=10_000)] = 32

    rate: ClassVar[float] = 1e-3

    @abstractmethod
    def changes(self, net: nn.Module, seed: int) -> Mapping[str, Change]:
        """What the method changes of a network, by the name of the weight, at first nothing.

        Raises:
            InputError: when the settings do not fit the network.
        """

    def training(self) -> TrainConfig:
        """How it is trained unless told otherwise."""
        return TrainConfig(
            images=2_000, batch=4, lr=self.rate, weight_decay=0.0, warmup=80, ema_profiles=(), log_every=200,
            validate_every=10**9, sample_every=1_000, save_every=1_000,
        )  # fmt: skip

    @property
    def denoising(self) -> DenoisingConfig:
        """The settings of the base."""
        if self.model is None:
            raise InputError(f"{self.name} adapts a trained model: reverie adapt RUN PICTURES --method {self.name}")
        return self.model

    def of(self, spec: DataSpec) -> DataSpec:
        """What the base knows of its data, from what its pictures are."""
        from reverie.core.condition import Label

        conditions = {"label": Label(len(self.classes))} if self.classes else {}
        return replace(spec, conditions=conditions, classes=self.classes)

    def prepare(self, given: Given) -> None:
        from reverie.adapt.training import draw_class
        from reverie.core import files
        from reverie.core.files import inside
        from reverie.diffusion.taught import prepare_teacher

        prepare_teacher(self.run, replace(given, spec=self.of(given.spec)))
        path = inside(given.folder, DRAWN)
        if self.preserve and not path.exists():
            images = draw_class(given.load(self.run), self, given.seed)
            files.write_tensors(path, {"images": images}, {"what": "pictures of the class"})

    def build(self, spec: DataSpec, seed: int, folder: Path | None = None) -> Adapting:
        from reverie.adapt.training import begin, of_class
        from reverie.core import files
        from reverie.diffusion import taught

        own = self.of(spec)
        base = self.denoising.open(taught.begin(self.denoising.build(own, seed, folder), folder), own)
        if self.preserve:
            of_class(base, self)
        drawn = files.read_tensors(folder / DRAWN)["images"] if self.preserve and folder is not None else None
        return begin(self, base, seed, drawn)

    def modules(self, model: Adapting) -> Mapping[str, nn.Module]:
        return {"adapter": model.adapter}

    def examples(self, data: Dataset, held_out: Dataset, folder: Path, codes: Path) -> tuple[Dataset, Dataset]:
        """All pictures are learned from: there are few."""
        from reverie.adapt.pictures import Together

        return (Together(data, held_out) if len(held_out) else data), held_out

    def task(self, model: Adapting, data: Dataset, held_out: Dataset, sample: Any, seed: int) -> Personalising:
        from reverie.adapt.training import Personalising
        from reverie.diffusion.building import times

        own = self.denoising
        return Personalising(model, self, times(own, model.base.schedule), own.loss_kind)

    def open(self, model: Adapting, spec: DataSpec) -> Adapter:
        return model.adapter

    def generator(self, opened: Any, sample: Any) -> Any:
        raise InputError(
            f"an adapter draws nothing alone: draw with its base, reverie sample {quote(self.run)} --adapter RUN"
        )

    def next(self, run: str, data: str) -> str:
        label = f" --label {quote(self.token)}" if self.token else ""
        return f"reverie sample {quote(self.run)} --adapter {quote(run)}{label}"


@dataclass(frozen=True, kw_only=True)
class LoRAConfig(AdaptConfig):
    """A residual of low rank for each layer (Hu et al. 2022), and the token.

    Attributes:
        rank: of the residuals.
        alpha: α, of which the strength is α/rank; the rank without.
        layers: which linear layers and convolutions, a regular expression on their paths; '' for all.
        dora: train the length of each row apart from its direction (Liu et al. 2024).
    """

    name: ClassVar[str] = "lora"

    rank: Annotated[int, Bound(ge=1, le=65_536)] = 4
    alpha: float | None = None
    layers: str = ""
    dora: bool = False

    def changes(self, net: nn.Module, seed: int) -> Mapping[str, Change]:
        from reverie.adapt.lora import changes

        return changes(net, self.rank, self.alpha, self.layers, seed, self.dora)


@dataclass(frozen=True, kw_only=True)
class DreamBoothConfig(AdaptConfig):
    """All weights and the token, beside the model's own pictures of the class (Ruiz et al. 2023)."""

    name: ClassVar[str] = "dreambooth"
    rate: ClassVar[float] = 1e-4

    preserve: Annotated[float, Bound(ge=0)] = 1.0

    def changes(self, net: nn.Module, seed: int) -> Mapping[str, Change]:
        from reverie.adapt.dreambooth import changes

        return changes(net)


@dataclass(frozen=True, kw_only=True)
class TextualConfig(AdaptConfig):
    """The token alone, one row of numbers (Gal et al. 2023)."""

    name: ClassVar[str] = "textual"
    rate: ClassVar[float] = 2e-2

    def changes(self, net: nn.Module, seed: int) -> Mapping[str, Change]:
        return {}


@dataclass(frozen=True, kw_only=True)
class CustomConfig(AdaptConfig):
    """Keys and values of cross-attention and the token (Kumari et al. 2023); of a model of classes, where it listens to them.

    Attributes:
        layers: which, a regular expression on the paths of layers; found without.
    """

    name: ClassVar[str] = "custom"

    preserve: Annotated[float, Bound(ge=0)] = 1.0
    layers: str | None = None

    def changes(self, net: nn.Module, seed: int) -> Mapping[str, Change]:
        from reverie.adapt.custom import changes

        return changes(net, self.layers)


@dataclass(frozen=True, kw_only=True)
class SVDiffConfig(AdaptConfig):
    """The singular values of every layer and the token (Han et al. 2023).

    Attributes:
        layers: which, a regular expression on their paths; '' for all.
    """

    name: ClassVar[str] = "svdiff"

    rate: ClassVar[float] = 1e-2
    layers: str = ""

    def changes(self, net: nn.Module, seed: int) -> Mapping[str, Change]:
        from reverie.adapt.svdiff import changes

        return changes(net, self.layers)


METHODS: dict[str, type[AdaptConfig]] = {
    config.name: config for config in (LoRAConfig, DreamBoothConfig, TextualConfig, CustomConfig, SVDiffConfig)
}
"""The settings of methods by name."""
