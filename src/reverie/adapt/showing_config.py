"""The tasks of encoders that show a model of texts subjects, as recipes name them. Cheap to import: flags are made from these classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from tyro.conf import Suppress

from reverie.adapt.encoder_config import FromPicturesConfig
from reverie.core.bounds import Bound
from reverie.core.errors import InputError
from reverie.core.task import Given
from reverie.diffusion.conditioned import unmapped

if TYPE_CHECKING:
    from torch import nn

    from reverie.adapt.adapter import Adapter
    from reverie.adapt.change import Change
    from reverie.adapt.encoder import AdapterEncoder, Encoding
    from reverie.adapt.looking import Looking, Predictor
    from reverie.core.batch import Dataset, DataSpec


@dataclass(frozen=True, kw_only=True)
class ShowingConfig(FromPicturesConfig):
    """What all of these choose: a network that looks at pictures of a subject, and shows them to a model of texts where the word of the
    subject stands. data.maps says where in each picture the subject is, any class of a map; without, everywhere.
    """

    maps: ClassVar[Literal["maps", "boxes"] | None] = "maps"

    def changes(self, net: nn.Module, seed: int) -> Mapping[str, Change]:
        return {}

    def check(self, spec: DataSpec, sample: Any) -> None:
        super().check(unmapped(spec), sample)

    def prepare(self, given: Given) -> None:
        super().prepare(replace(given, spec=unmapped(given.spec)))


@dataclass(frozen=True, kw_only=True)
class ELITEConfig(ShowingConfig):
    """An encoder that says a subject in words, and shows its patches where the first of them is looked at (Wei et al. 2023).

    Attributes:
        words: that a subject is said in while the encoder learns; the first is its token, the others take up the rest of the pictures.
        first: share of the training in which the words learn alone; then what is seen does.
        small: weight of the size of the words.
        light: weight of the size of the values.
    """

    name: ClassVar[str] = "elite"

    shown: Annotated[int, Bound(ge=1, le=1_000)] = 1
    words: Annotated[int, Bound(ge=1, le=64)] = 5
    first: Annotated[float, Bound(ge=0, le=1)] = 0.5
    small: Annotated[float, Bound(ge=0)] = 0.01
    light: Annotated[float, Bound(ge=0)] = 1e-4

    def predictor(self, look: Looking, adapter: Adapter) -> Predictor:
        from reverie.adapt.elite import ELITE

        return ELITE(look, adapter, self.words, self.small, self.light)

    def modules(self, model: AdapterEncoder) -> Mapping[str, nn.Module]:
        return {"words": model.net.words, "local": model.net.local}  # pyright: ignore[reportReturnType]

    def task(self, model: AdapterEncoder, data: Dataset, held_out: Dataset, sample: Any, seed: int) -> Encoding:
        from reverie.adapt.showing import Eliting
        from reverie.diffusion.building import unseen

        return Eliting(model, self.objective(model), self.first, unseen(held_out))


@dataclass(frozen=True, kw_only=True)
class FastComposerConfig(ShowingConfig):
    """An encoder that puts each of several subjects into the token of its noun (Xiao et al. 2023). It learns from pictures with captions
    (data.captions) and maps (data.maps) of the things that these name; a picture shows its own.

    Attributes:
        localise: weight of where the tokens of subjects look.
        masked: share of the pictures whose error counts where subjects are, and there alone.
        delay: when drawn, share of the steps, at the beginning, that are told words alone.
    """

    name: ClassVar[str] = "fastcomposer"

    shown: Annotated[int, Bound(ge=1, le=1), Suppress] = 1
    localise: Annotated[float, Bound(ge=0)] = 1e-3
    masked: Annotated[float, Bound(ge=0, le=1)] = 0.5
    delay: Annotated[float, Bound(ge=0, le=1)] = 0.3

    def check(self, spec: DataSpec, sample: Any) -> None:
        if not {"text", "image"} <= set(spec.conditions):
            raise InputError(
                "fastcomposer learns from captions, and maps of what these name: --data.captions --data.maps MASKS, with the names in "
                "MASKS/classes.txt"
            )
        self.build(unmapped(spec), 0)

    def predictor(self, look: Looking, adapter: Adapter) -> Predictor:
        from reverie.adapt.fastcomposer import FastComposer

        return FastComposer(look, adapter, self.delay)

    def examples(self, data: Dataset, held_out: Dataset, folder: Path, codes: Path) -> tuple[Dataset, Dataset]:
        from reverie.adapt.composing import Composed

        return Composed(data), Composed(held_out)  # pyright: ignore[reportArgumentType]

    def task(self, model: AdapterEncoder, data: Dataset, held_out: Dataset, sample: Any, seed: int) -> Encoding:
        from reverie.adapt.composing import Composed, Composing
        from reverie.diffusion.building import unseen

        inner: Any = data
        while not isinstance(inner, Composed):
            inner = inner.data
        return Composing(model, self.objective(model), inner.classes, self.localise, self.masked, unseen(held_out))


@dataclass(frozen=True, kw_only=True)
class DemonstrationsConfig(ShowingConfig):
    """A branch that shows pictures of a subject in up to three ways; recipes of it are suti (Chen et al. 2023), instantbooth (Shi et al.
    2024) and taming (Jia et al. 2023).

    Attributes:
        word: predict the word of the subject, beside that of what all subjects are.
        patches: let places attend to the patches of the pictures, behind a gate that begins closed.
        beside: tokens of the subject that stand beside the text.
        cut: share of the pictures that are cut out of their ground in training, by data.maps.
        crop: of the sides of the pictures that are looked at, how much is cut off at most in training, at random; a half is mirrored then.
    """

    name: ClassVar[str] = "demonstrations"

    word: bool = False
    patches: bool = True
    beside: Annotated[int, Bound(ge=0, le=1_000)] = 0
    cut: Annotated[float, Bound(ge=0, le=1)] = 0.0
    crop: Annotated[float, Bound(ge=0, lt=1)] = 0.0

    def check(self, spec: DataSpec, sample: Any) -> None:
        if self.cut and "image" not in spec.conditions:
            raise InputError(
                "demonstrations are cut out of their ground by maps: give --data.maps MASKS, or --cut 0 to show whole pictures"
            )
        super().check(spec, sample)

    def predictor(self, look: Looking, adapter: Adapter) -> Predictor:
        from reverie.adapt.demonstrations import Demonstrated

        if not (self.word or self.patches or self.beside):
            raise InputError("demonstrations are shown in one way at least: --word, --patches or --beside 4")
        return Demonstrated(look, adapter, self.word, self.patches, self.beside)

    def task(self, model: AdapterEncoder, data: Dataset, held_out: Dataset, sample: Any, seed: int) -> Encoding:
        from reverie.adapt.showing import Demonstrating
        from reverie.diffusion.building import unseen

        return Demonstrating(model, self.objective(model), self.cut, self.crop, unseen(held_out))
