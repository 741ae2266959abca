"""The tasks of encoders as recipes name them, and tuning from what one predicts. Cheap to import: flags are made from these classes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from tyro.conf import Suppress

from reverie.adapt.config import AdaptConfig, knowing
from reverie.core.bounds import Bound
from reverie.core.errors import InputError
from reverie.core.task import Given, NoSample, Sweep, Task
from reverie.diffusion.teacher import FromRun
from reverie.learn.config import TrainConfig
from reverie.nets.config import EncoderConfig

if TYPE_CHECKING:
    from torch import nn

    from reverie.adapt.adapter import Adapter
    from reverie.adapt.change import Change
    from reverie.adapt.encoder import AdapterEncoder, Encoding
    from reverie.adapt.looking import Looking, Predictor
    from reverie.adapt.training import Adapting
    from reverie.core.batch import Dataset, DataSpec

START = "start.safetensors"
"""In a run's folder, the adapter that an encoder predicted."""
LISTENING = r"attention|attn|cross|modulation|time_emb_proj|norm1\.linear"
"""The layers of attention, and those that listen to the condition."""


@dataclass(frozen=True, kw_only=True)
class FromPicturesConfig(FromRun):
    """What all encoders choose: a network that looks at pictures of a subject and predicts an adapter of the model of another run, which
    stays as it is. The data are pictures of many subjects, a folder each; the last tenth of the subjects is kept to validate on.

    Attributes:
        base: folder of the run of the model, a diffusion model.
        classes: of the base, inferred.
        length: the most tokens of a text of the base, inferred; 0 of one that is told none.
        like: the class, by name or number, or the word of what all subjects are, which an adapter begins at; without, it begins at the mean
            of the classes, or at the word a.
        prompt: of a model of texts, {} where the token stands.
        shown: pictures of a subject that are looked at in training.
        width: features of a subject.
        net: the network that looks at pictures.
    """

    Sample: ClassVar[type] = NoSample
    by: ClassVar[str] = "base"
    elsewhere: ClassVar[bool] = True

    base: str = ""
    classes: Annotated[tuple[str, ...], Suppress] = ()
    length: Annotated[int, Bound(ge=0, le=65_536), Suppress] = 0
    like: str | None = None
    prompt: str = "a photo of {}"
    shown: Annotated[int, Bound(ge=1, le=1_000)] = 4
    width: Annotated[int, Bound(ge=1, le=65_536)] = 128
    net: EncoderConfig = field(default_factory=EncoderConfig)

    def told(self, classes: tuple[str, ...], length: int) -> Self:
        return replace(self, classes=classes, length=length)

    @abstractmethod
    def changes(self, net: nn.Module, seed: int) -> Mapping[str, Change]:
        """What an adapter of it changes of a network, by the name of the weight, at first nothing.

        Raises:
            InputError: when the settings do not fit the network.
        """

    @abstractmethod
    def predictor(self, look: Looking, adapter: Adapter) -> Predictor:
        """A fresh network that predicts the numbers of such adapters from what is seen of pictures."""

    def check(self, spec: DataSpec, sample: Any) -> None:
        if "label" not in spec.conditions:
            raise InputError(f"{self.name} learns from many subjects, a folder of pictures each: this data has none")
        self.build(spec, 0)

    def prepare(self, given: Given) -> None:
        from reverie.adapt.keeping import keep

        keep(self.base, self.denoising, given)

    def build(self, spec: DataSpec, seed: int, folder: Path | None = None) -> AdapterEncoder:
        from reverie.adapt.encoder import build
        from reverie.adapt.keeping import kept

        base = kept(self.denoising, knowing(spec, self.classes, self.length), seed, folder)
        return build(self, base, seed)  # pyright: ignore[reportArgumentType]

    def modules(self, model: AdapterEncoder) -> Mapping[str, nn.Module]:
        return {"encoder": model.net}

    def examples(self, data: Dataset, held_out: Dataset, folder: Path, codes: Path) -> tuple[Dataset, Dataset]:
        from reverie.adapt.encoder import parted

        return parted(data, self.shown)

    def objective(self, model: AdapterEncoder) -> partial[Task]:
        """What makes of the base the task that trains it."""
        from reverie.adapt.training import own
        from reverie.diffusion.building import times

        density = times(self.denoising, model.base.schedule)
        return partial(own, times=density, loss_kind=self.denoising.loss_kind)

    def task(self, model: AdapterEncoder, data: Dataset, held_out: Dataset, sample: Any, seed: int) -> Encoding:
        from reverie.adapt.encoder import Encoding
        from reverie.diffusion.building import unseen

        return Encoding(model, self.objective(model), unseen(held_out))

    def describe(self, model: AdapterEncoder, spec: DataSpec) -> dict[str, str]:
        """Among others the SHA-256 of the base: a run whose copy of it was changed does not open."""
        return {**super().describe(model, spec), "base": model.net.adapter.base}

    def open(self, model: AdapterEncoder, spec: DataSpec) -> AdapterEncoder:
        return model

    def generator(self, opened: Any, sample: Any) -> Any:
        raise InputError(
            f"an encoder draws nothing alone: its base does, with what it predicts, reverie adapt {quote(self.base)} PICTURES --encoder RUN"
        )

    def next(self, run: str, data: str) -> str:
        return f"reverie adapt --encoder {quote(run)} --help"

    @property
    def unlabelled(self) -> bool:
        return False

    def usual(self, sample: Any) -> Any:
        return sample

    def sweep(self, sample: Any) -> Sweep | None:
        return None


@dataclass(frozen=True, kw_only=True)
class E4TConfig(FromPicturesConfig):
    """An encoder that predicts the word of a subject beside that of its domain, and learns offsets of the weights that all share (Gal et
    al. 2023).

    Attributes:
        step: how far the word may lie from the domain's, in units of that.
        norm: weight of the square of the distance.
        layers: which have offsets, a regular expression on their paths; those of attention and those that listen to the condition without.
    """

    name: ClassVar[str] = "e4t"

    step: Annotated[float, Bound(ge=0)] = 7.0
    norm: Annotated[float, Bound(ge=0)] = 0.01
    layers: str = LISTENING

    def changes(self, net: nn.Module, seed: int) -> Mapping[str, Change]:
        from reverie.adapt.e4t import changes

        return changes(net, self.layers)

    def predictor(self, look: Looking, adapter: Adapter) -> Predictor:
        from reverie.adapt.e4t import E4T

        return E4T(look, adapter, self.step, self.norm)


@dataclass(frozen=True, kw_only=True)
class HyperDreamBoothConfig(FromPicturesConfig):
    """A hypernetwork that predicts small changes of many layers (Ruiz et al. 2024, HyperDreamBooth).

    Attributes:
        rank: of the changes.
        outer: numbers of a column of them that are left after projection.
        inner: of a row.
        layers: which are changed, a regular expression on their paths; those of attention and those that listen to the condition without.
        depth: blocks of the transformer that predicts.
        heads: of its attention, a divisor of the width.
        rounds: how often it corrects its prediction.
    """

    name: ClassVar[str] = "hyperdreambooth"

    rank: Annotated[int, Bound(ge=1, le=1_000)] = 1
    outer: Annotated[int, Bound(ge=1, le=65_536)] = 100
    inner: Annotated[int, Bound(ge=1, le=65_536)] = 50
    layers: str = LISTENING
    depth: Annotated[int, Bound(ge=1, le=1_000)] = 2
    heads: Annotated[int, Bound(ge=1, le=65_536)] = 4
    rounds: Annotated[int, Bound(ge=1, le=1_000)] = 4

    def changes(self, net: nn.Module, seed: int) -> Mapping[str, Change]:
        from reverie.adapt.hyperdreambooth import changes

        return changes(net, self.layers, self.rank, self.outer, self.inner, seed)

    def predictor(self, look: Looking, adapter: Adapter) -> Predictor:
        from reverie.adapt.hyperdreambooth import HyperDreamBooth

        return HyperDreamBooth(look, adapter, self.depth, self.heads, self.rounds)


@dataclass(frozen=True, kw_only=True)
class EncodedConfig(AdaptConfig):
    """What the encoder of another run predicts of the pictures, and a few steps of training from there. data.maps says where the subject is
    in each picture, to an encoder that looks there (elite …).

    Attributes:
        encoder: folder of its run, trained on the same base.
        tune: train from there; else what is predicted is what is written.
        rank: of what is trained on from a prediction of hyperdreambooth, 4 without.
    """

    name: ClassVar[str] = "encoded"
    maps: ClassVar[Literal["maps", "boxes"] | None] = "maps"

    encoder: str = ""
    tune: bool = True
    rank: Annotated[int, Bound(ge=1, le=65_536)] | None = None
    token: str | None = "<mine>"

    def training(self) -> TrainConfig:
        return replace(super().training(), images=40, warmup=4, log_every=4, sample_every=40, save_every=40)

    def changes(self, net: nn.Module, seed: int) -> Mapping[str, Change]:
        return {}

    def prepare(self, given: Given) -> None:
        from reverie.adapt.encoder import predicted
        from reverie.core.files import inside

        super().prepare(given)
        path = inside(given.folder, START)
        if not path.exists():
            predicted(self, given.load(self.encoder), given.data, given.held_out).save(path)

    def build(self, spec: DataSpec, seed: int, folder: Path | None = None) -> Adapting:
        from reverie.adapt.adapter import Adapter
        from reverie.adapt.training import begin

        fresh = super().build(spec, seed, folder)
        if folder is None:
            return fresh
        return begin(self, fresh.base, seed, fresh.drawn, Adapter.load(folder / START))
