"""Tasks whose networks are shown a picture. Cheap to import: the command line makes its flags from these classes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from reverie.core.bounds import Bound
from reverie.core.errors import InputError
from reverie.core.task import Given
from reverie.diffusion.config import OnPath, RestoreConfig, SampleConfig
from reverie.diffusion.teacher import FromRun
from reverie.nets.config import CONFIGS, NetConfig, TextConfig

if TYPE_CHECKING:
    from torch import nn

    from reverie.core.batch import Dataset, DataSpec
    from reverie.core.denoiser import NetDenoiser
    from reverie.diffusion.control import Control, Controlling
    from reverie.diffusion.gligen import Gligen, Reading
    from reverie.diffusion.instructing import Instructing
    from reverie.diffusion.palette import Palette
    from reverie.diffusion.sketch import Sketcher, Sketching
    from reverie.solve import Sampler


@dataclass(frozen=True, kw_only=True)
class PaletteConfig(OnPath):
    """Restoration that is learned: the network is shown the damaged picture beside the noise (Saharia et al. 2022, Palette).

    Attributes:
        op: what happens to the pictures: holes of any form, a frame or side that is missing, grey in place of colours, JPEG of quality
            5 to 30, or one so much smaller.
        factor: of superres, how much smaller.
        reference: show another picture of the same class too.
        augment: noise of a random level, which the network is told, is added to what it is shown, of superres to the small picture, so
            that it serves on pictures that another model drew (Ho et al. 2022, cascades).
        net: the network, one that takes a picture (unet, dit).
        kind: what it predicts.
    """

    name: ClassVar[str] = "palette"
    Sample: ClassVar[type] = RestoreConfig

    op: Literal["inpaint", "uncrop", "colourise", "jpeg", "superres"] = "inpaint"
    factor: Annotated[int, Bound(ge=2, le=64)] = 4
    reference: bool = False
    augment: bool = False
    net: NetConfig = field(default_factory=CONFIGS["unet"])
    kind: Literal["flow", "v", "x0", "eps", "straight", "edm"] = "flow"

    def check(self, spec: DataSpec, sample: RestoreConfig) -> None:
        from reverie.diffusion.building import learns_variance, solving

        solving(sample)
        if learns_variance(self.net):
            raise InputError("palette is trained by the squared error alone: leave out net.learn_sigma")
        self.build(spec, 0)

    def build(self, spec: DataSpec, seed: int, folder: Path | None = None) -> NetDenoiser:
        from reverie.diffusion.palette import build

        return build(self, spec, seed)

    def modules(self, model: NetDenoiser) -> dict[str, nn.Module]:
        return {"denoiser": model.net}

    def examples(self, data: Dataset, held_out: Dataset, folder: Path, codes: Path) -> tuple[Dataset, Dataset]:
        """With a reference, each picture beside the next of its class."""
        from reverie.diffusion.palette import Referred

        return (
            (Referred(data), Referred(held_out) if len(held_out) else held_out) if self.reference else (data, held_out)
        )

    def task(self, model: NetDenoiser, data: Dataset, held_out: Dataset, sample: RestoreConfig, seed: int) -> Palette:
        from reverie.diffusion.palette import task

        return task(self, model, data, held_out, sample, seed)

    def describe(self, model: NetDenoiser, spec: DataSpec) -> dict[str, str]:
        return {**super().describe(model, spec), "kind": model.kind.name, "op": self.op}

    def next(self, run: str, data: str) -> str:
        return f"reverie restore {quote(run)} --help"

    def generator(self, opened: NetDenoiser, sample: Any) -> Any:
        raise InputError(
            f"a run of palette draws what a damaged picture may have been ({self.op}): `reverie restore RUN --image FILE`"
        )


@dataclass(frozen=True, kw_only=True)
class InstructConfig(OnPath):
    """Editing by instruction that is learned: the network is shown the picture beside the noise and told in words what becomes of it
    (Brooks et al. 2023, InstructPix2Pix). The data are pictures side by side, before and after, with instructions as captions, as
    reverie.edit.pairs makes them.

    Attributes:
        net: the network, one that takes a picture and a text (unet).
        kind: what it predicts.
        drop: share of the examples that lack the instruction, that lack the picture, and that lack both, each.
        text: how instructions are read.
    """

    name: ClassVar[str] = "instruct"
    Sample: ClassVar[type] = RestoreConfig

    net: NetConfig = field(default_factory=CONFIGS["unet"])
    kind: Literal["flow", "v", "x0", "eps", "straight", "edm"] = "flow"
    drop: Annotated[float, Bound(ge=0, le=1 / 3)] = 0.05
    text: TextConfig = field(default_factory=TextConfig)

    def check(self, spec: DataSpec, sample: RestoreConfig) -> None:
        from reverie.diffusion.building import learns_variance, solving

        solving(sample)
        if learns_variance(self.net):
            raise InputError("instruct is trained by the squared error alone: leave out net.learn_sigma")
        self.build(spec, 0)

    def prepare(self, given: Given) -> None:
        from reverie.diffusion.reading import prepare_reading

        super().prepare(given)
        prepare_reading(self.text, given)

    def examples(self, data: Dataset, held_out: Dataset, folder: Path, codes: Path) -> tuple[Dataset, Dataset]:
        """Pictures after, told the pictures before and the instructions."""
        from reverie.diffusion.instructing import Sides
        from reverie.diffusion.texts import captioned

        told = captioned(self.text, data, data, folder), captioned(self.text, held_out, held_out, folder, plain=True)
        return Sides(told[0]), Sides(told[1])

    def build(self, spec: DataSpec, seed: int, folder: Path | None = None) -> NetDenoiser:
        from reverie.diffusion.instructing import build

        return build(self, spec, seed, folder)

    def modules(self, model: NetDenoiser) -> dict[str, nn.Module]:
        from reverie.diffusion.texts import reader_of

        own = reader_of(model)
        return {"denoiser": model.net} if own is None else {"denoiser": model.net, "text": own}

    def task(
        self, model: NetDenoiser, data: Dataset, held_out: Dataset, sample: RestoreConfig, seed: int
    ) -> Instructing:
        from reverie.diffusion.instructing import task

        return task(self, model, data, held_out, sample, seed)

    def describe(self, model: NetDenoiser, spec: DataSpec) -> dict[str, str]:
        return {**super().describe(model, spec), "kind": model.kind.name}

    def next(self, run: str, data: str) -> str:
        return f"reverie edit {quote(run)} --help"

    def generator(self, opened: NetDenoiser, sample: Any) -> Any:
        raise InputError('a run of instruct edits pictures: `reverie edit RUN picture.png --to "make it blue"`')


@dataclass(frozen=True, kw_only=True)
class HintedConfig(FromRun):
    """What learns beside the diffusion model of another run, which stays as it is, and leads it by a hint.

    Attributes:
        base: folder of the run of the model.
    """

    by: ClassVar[str] = "base"
    reads: ClassVar[bool] = True

    base: str = ""

    def examples(self, data: Dataset, held_out: Dataset, folder: Path, codes: Path) -> tuple[Dataset, Dataset]:
        """The pictures, with their captions where the model is told these."""
        from reverie.diffusion.texts import captioned

        text = self.denoising.text
        return captioned(text, data, data, folder), captioned(text, held_out, held_out, folder, plain=True)

    def drawing(self, own: Any, taught: Any) -> Any:
        return taught if own == self.Sample() else own

    def describe(self, model: Any, spec: DataSpec) -> dict[str, str]:
        """Among others the SHA-256 of the base: a run whose copy of it was changed does not open."""
        return {**super().describe(model, spec), "base": str(model.net.base)}

    def open(self, model: Any, spec: DataSpec) -> Any:
        self.denoising.open(model.base, spec)
        model.base.net.eval().requires_grad_(False)
        return model

    def generator(self, opened: Any, sample: SampleConfig) -> Sampler:
        from reverie.core.denoiser import Denoiser

        if not isinstance(opened, Denoiser):
            raise InputError(f"a run of {self.name} draws by a hint: `reverie sample RUN --hint FILE`")
        return self.denoising.generator(opened, sample)

    def next(self, run: str, data: str) -> str:
        return f"reverie sample {quote(run)} --help"


@dataclass(frozen=True, kw_only=True)
class ControlNetConfig(HintedConfig):
    """Teach the diffusion model of another run, which stays as it is, to draw by a hint (Zhang et al. 2023, ControlNet). Its network
    is a dit, an mmdit, a unet or a uvit.

    Attributes:
        hint: made of each picture: the strength of its edges, or the shapes that are brighter than the picture's middle.
        light: train an adapter in its place, a few convolutions of the hint alone (Mou et al. 2023, T2I-Adapter; unet).
        drop: share of the pictures whose label is dropped.
    """

    name: ClassVar[str] = "controlnet"

    hint: Literal["edges", "shapes"] = "edges"
    light: bool = False
    drop: Annotated[float, Bound(ge=0, le=1)] = 0.5

    def build(self, spec: DataSpec, seed: int, folder: Path | None = None) -> Control:
        from reverie.diffusion.control import build

        return build(self, spec, seed, folder)

    def modules(self, model: Control) -> dict[str, nn.Module]:
        return {"control": model.net}

    def task(self, model: Control, data: Dataset, held_out: Dataset, sample: SampleConfig, seed: int) -> Controlling:
        from reverie.diffusion.control import task

        return task(self, model, data, held_out, sample, seed)

    def describe(self, model: Control, spec: DataSpec) -> dict[str, str]:
        return {**super().describe(model, spec), "hint": self.hint}


@dataclass(frozen=True, kw_only=True)
class SketchConfig(HintedConfig):
    """Teach a small predictor the edges of a picture from the features of another run's diffusion model, which leads that model along the
    lines of a sketch (Voynov et al. 2023).

    Attributes:
        sites: the blocks whose features are looked at, as reverie.taps.sites names them; all without.
        width: of the predictor.
        drop: share of the pictures whose label or caption is dropped.
    """

    name: ClassVar[str] = "sketch"

    sites: tuple[str, ...] = ()
    width: Annotated[int, Bound(ge=1, le=65_536)] = 64
    drop: Annotated[float, Bound(ge=0, le=1)] = 0.1

    def build(self, spec: DataSpec, seed: int, folder: Path | None = None) -> Sketcher:
        from reverie.diffusion.sketch import build

        return build(self, spec, seed, folder)

    def modules(self, model: Sketcher) -> dict[str, nn.Module]:
        return {"sketch": model.net}

    def task(self, model: Sketcher, data: Dataset, held_out: Dataset, sample: SampleConfig, seed: int) -> Sketching:
        from reverie.diffusion.sketch import task

        return task(self, model, data, held_out)


@dataclass(frozen=True, kw_only=True)
class GligenConfig(HintedConfig):
    """Teach the diffusion model of another run, which stays as it is, to read boxes (Li et al. 2023, GLIGEN): data.maps is a table of them.
    What a box is to hold is said in words to a model that reads texts, by its class to others.

    Attributes:
        width: of the token of a box.
        drop: share of the pictures whose label or caption is dropped.
    """

    name: ClassVar[str] = "gligen"
    maps: ClassVar[Literal["maps", "boxes"] | None] = "boxes"

    width: Annotated[int, Bound(ge=1, le=65_536)] = 128
    drop: Annotated[float, Bound(ge=0, le=1)] = 0.1

    def check(self, spec: DataSpec, sample: SampleConfig) -> None:
        if not spec.conditions.get("image"):
            raise InputError("gligen learns from boxes: name a table of them, --data.maps boxes.json")
        super().check(unmapped(spec), sample)

    def prepare(self, given: Given) -> None:
        super().prepare(replace(given, spec=unmapped(given.spec)))

    def examples(self, data: Dataset, held_out: Dataset, folder: Path, codes: Path) -> tuple[Dataset, Dataset]:
        """Pictures beside their boxes."""
        from reverie.diffusion.gligen import Placed

        return super().examples(Placed(data), Placed(held_out), folder, codes)  # pyright: ignore[reportArgumentType]

    def build(self, spec: DataSpec, seed: int, folder: Path | None = None) -> Gligen:
        from reverie.diffusion.gligen import build

        return build(self, unmapped(spec), spec.conditions["image"].channels, seed, folder)  # pyright: ignore

    def modules(self, model: Gligen) -> dict[str, nn.Module]:
        return {"gligen": model.net}

    def task(self, model: Gligen, data: Dataset, held_out: Dataset, sample: SampleConfig, seed: int) -> Reading:
        from reverie.diffusion.gligen import task

        return task(self, model, data, held_out, sample, seed)

    def generator(self, opened: Any, sample: SampleConfig) -> Sampler:
        from reverie.core.denoiser import Denoiser

        if not isinstance(opened, Denoiser):
            raise InputError("a run of gligen draws by boxes: `reverie sample RUN --box heart:0.1,0.1,0.6,0.6`")
        return super().generator(opened, sample)


def unmapped(spec: DataSpec) -> DataSpec:
    """What is said of data without its maps."""
    return replace(spec, conditions={name: each for name, each in spec.conditions.items() if name != "image"})
