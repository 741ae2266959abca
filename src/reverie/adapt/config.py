"""The tasks of ``reverie adapt`` as recipes name them. Cheap to import: the command line makes its flags from these classes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from tyro.conf import Suppress

from reverie.core.bounds import Bound
from reverie.core.errors import InputError
from reverie.core.task import Given, TaskConfig
from reverie.diffusion.config import DenoisingConfig
from reverie.families.token_config import MaskGITConfig, VARConfig
from reverie.learn.config import TrainConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

    from reverie.adapt.adapter import Adapter
    from reverie.adapt.change import Change
    from reverie.adapt.tokens import Model
    from reverie.adapt.training import Adapting, Personalising
    from reverie.core.batch import Dataset, DataSpec
    from reverie.core.condition import Conditions

DRAWN = "class.safetensors"
"""In a run's folder, the base's pictures of the class."""


def knowing(spec: DataSpec, classes: tuple[str, ...], length: int) -> DataSpec:
    """What a model of these classes, or of texts of so many tokens, knows of its data, from what pictures are."""
    from reverie.core.condition import Label, Text

    conditions: Conditions = {"label": Label(len(classes))} if classes else {}
    if length:
        conditions = {**conditions, "text": Text(length)}
    return replace(spec, conditions=conditions, classes=classes)


@dataclass(frozen=True, kw_only=True)
class AdaptConfig(TaskConfig):
    """What all methods of personalisation choose. The run keeps a copy of the base, so either folder may move.

    Attributes:
        run: folder of the base, a diffusion model or one of tokens.
        model: the settings of the base, inferred.
        classes: of the base, inferred.
        length: the most tokens of a text of the base, inferred; 0 of one that is told none.
        token: what the model is told of the new pictures, such as <mine>; none for a model that is told nothing.
        like: the class, by name or number, or the word that the token begins at, and that prior preservation keeps; without, it begins at
            the mean of the classes, or at the word a.
        prompt: of a model of texts, {} where the token stands.
        preserve: weight of prior preservation; 0 for none. Without, 1 where a token and the class that it is like are named, so that the
            class does not become the subject.
        drawn: pictures of the class that the base draws for it.
    """

    run: Annotated[str, Suppress] = ""
    model: Annotated[DenoisingConfig | MaskGITConfig | VARConfig | None, Suppress] = None
    classes: Annotated[tuple[str, ...], Suppress] = ()
    length: Annotated[int, Bound(ge=0, le=65_536), Suppress] = 0
    token: str | None = None
    like: str | None = None
    prompt: str = "a photo of {}"
    preserve: Annotated[float, Bound(ge=0)] | None = None
    drawn: Annotated[int, Bound(ge=1, le=10_000)] = 32

    rate: ClassVar[float] = 1e-3
    alone: ClassVar[bool] = False
    """Whether nothing but the token is trained."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """The classes that prior preservation keeps."""
        return () if self.like is None else (self.like,)

    @property
    def prior(self) -> float:
        """λ of prior preservation."""
        if self.preserve is not None:
            return self.preserve
        return 0.0 if self.alone or self.token is None or self.like is None else 1.0

    def resolved(self) -> Self:
        return replace(self, preserve=self.prior)

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

    def row(self, base: Model) -> Tensor:
        """What the token begins as.

        Raises:
            InputError: when the base learns no tokens.
        """
        from reverie.adapt.tokens import beginning

        return beginning(base, self.like)

    @property
    def base(self) -> DenoisingConfig | MaskGITConfig | VARConfig:
        """The settings of the base."""
        if self.model is None:
            raise InputError(f"{self.name} adapts a trained model: reverie adapt RUN PICTURES --method {self.name}")
        return self.model

    def of(self, spec: DataSpec) -> DataSpec:
        """What the base knows of its data, from what its pictures are."""
        return knowing(spec, self.classes, self.length)

    def prepare(self, given: Given) -> None:
        from reverie.adapt.keeping import keep
        from reverie.adapt.training import draw_class
        from reverie.core import files
        from reverie.core.files import inside

        keep(self.run, self.base, given)
        path = inside(given.folder, DRAWN)
        if self.prior and not path.exists():
            images = draw_class(given.load(self.run), self, given.seed)
            files.write_tensors(path, {"images": images}, {"what": "pictures of the class"})

    def build(self, spec: DataSpec, seed: int, folder: Path | None = None) -> Adapting:
        from reverie.adapt.training import begin

        base, drawn = self.prepared(spec, seed, folder)
        return begin(self, base, seed, drawn)

    def prepared(self, spec: DataSpec, seed: int, folder: Path | None) -> tuple[Model, Tensor | None]:
        """The base that :meth:`prepare` kept, and the pictures of the class that it drew, if they are wanted and there yet."""
        from reverie.adapt.keeping import kept
        from reverie.adapt.training import of_class
        from reverie.core import files

        base = kept(self.base, self.of(spec), seed, folder)
        if self.prior:
            of_class(base, self)
        return base, files.read_tensors(folder / DRAWN)["images"] if self.prior and folder is not None else None

    def modules(self, model: Adapting) -> Mapping[str, nn.Module]:
        return {"adapter": model.adapter}

    def examples(self, data: Dataset, held_out: Dataset, folder: Path, codes: Path) -> tuple[Dataset, Dataset]:
        """All pictures are learned from: there are few."""
        from reverie.adapt.pictures import Together

        return (Together(data, held_out) if len(held_out) else data), held_out

    def task(self, model: Adapting, data: Dataset, held_out: Dataset, sample: Any, seed: int) -> Personalising:
        from reverie.adapt.training import Personalising, own
        from reverie.diffusion.building import times

        base = self.base
        if isinstance(base, DenoisingConfig):
            density = times(base, model.base.schedule)  # pyright: ignore[reportAttributeAccessIssue]
            return Personalising(model, self, partial(own, times=density, loss_kind=base.loss_kind))
        return Personalising(model, self, own)

    def open(self, model: Adapting, spec: DataSpec) -> Adapter:
        return model.adapter

    def generator(self, opened: Any, sample: Any) -> Any:
        raise InputError(
            f"an adapter draws nothing alone: draw with its base, reverie sample {quote(self.run)} --adapter RUN"
        )

    def next(self, run: str, data: str) -> str:
        told = f" --label {quote(self.token)}" if self.token else ""
        if self.length:
            told = f" --text {quote(self.prompt if self.token is None else self.prompt.replace('{}', self.token))}"
        return f"reverie sample {quote(self.run)} --adapter {quote(run)}{told}"


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

    preserve: Annotated[float, Bound(ge=0)] | None = 1.0

    def changes(self, net: nn.Module, seed: int) -> Mapping[str, Change]:
        from reverie.adapt.dreambooth import changes

        return changes(net)


@dataclass(frozen=True, kw_only=True)
class TextualConfig(AdaptConfig):
    """The token alone, one row of numbers (Gal et al. 2023)."""

    name: ClassVar[str] = "textual"
    rate: ClassVar[float] = 2e-2
    alone: ClassVar[bool] = True

    def changes(self, net: nn.Module, seed: int) -> Mapping[str, Change]:
        return {}


@dataclass(frozen=True, kw_only=True)
class XTIConfig(TextualConfig):
    """The token alone, a row of numbers for each layer that listens to it (Voynov et al. 2023)."""

    name: ClassVar[str] = "xti"

    def row(self, base: Model) -> Tensor:
        from reverie.adapt.xti import places

        row = super().row(base)
        count = 1 + max(places(base.net, base.conditioner.text is not None).values())
        return row.expand(count, *row.shape).clone()


@dataclass(frozen=True, kw_only=True)
class CustomConfig(AdaptConfig):
    """Keys and values of cross-attention and the token (Kumari et al. 2023); of a model of classes, where it listens to them.

    Attributes:
        layers: which, a regular expression on the paths of layers; found without.
    """

    name: ClassVar[str] = "custom"

    preserve: Annotated[float, Bound(ge=0)] | None = 1.0
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
    config.name: config
    for config in (LoRAConfig, DreamBoothConfig, TextualConfig, XTIConfig, CustomConfig, SVDiffConfig)
}
"""The settings of methods by name."""
