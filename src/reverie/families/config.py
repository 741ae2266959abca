"""The settings of the other families. Cheap to import: the command line makes its flags from them."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from reverie.core.bounds import Bound
from reverie.core.task import Given, Sweep, TaskConfig
from reverie.diffusion.config import guidance
from reverie.spaces.config import SpaceConfig

if TYPE_CHECKING:
    from torch import nn

    from reverie.core.batch import Dataset, DataSpec
    from reverie.core.generator import Generator
    from reverie.families.autoregressive import Autoregressive, CausalNet, NextToken

Size = Annotated[int, Bound(ge=1, le=65_536)]
CODEBOOK = "codebook.safetensors"
"""Where a run keeps the tiles that it chooses among."""
Reach = Annotated[int, Bound(ge=1, le=64)]
Cycle = Annotated[int, Bound(ge=1, le=8)]
SCALES = (1.0, 1.5, 2.0, 3.0)
"""Guidance scales that a report shows side by side."""


@dataclass(frozen=True, kw_only=True)
class ChoiceConfig:
    """How each number is drawn from its distribution.

    Attributes:
        temperature: below 1 the likely is drawn more often than the model says, which suits tiles and not pixels.
        scale: of guidance towards the label or the text; 1 is the model as it is.
    """

    temperature: Annotated[float, Bound(gt=0)] = 1.0
    scale: float = 1.0


@dataclass(frozen=True, kw_only=True)
class DropsLabels(TaskConfig):
    """What models of tokens share that guidance can lead towards a label or a text.

    Attributes:
        drop: share of the images whose label or caption is dropped, so that guidance works.
    """

    drop: Annotated[float, Bound(ge=0, le=1)] = 0.1

    @property
    def unlabelled(self) -> bool:
        return self.drop > 0.0

    def usual(self, sample: Any) -> Any:
        return replace(sample, scale=1.0) if self.drop == 0.0 else sample

    def sweep(self, sample: Any) -> Sweep | None:
        return None if self.drop == 0.0 else guidance(sample, SCALES)

    def generator(self, opened: Any, sample: Any) -> Generator:
        from reverie.core.errors import InputError

        if sample.scale != 1.0 and self.drop == 0.0:
            raise InputError(
                "this model was trained with drop 0, so it cannot be guided: use scale 1, or train with drop 0.1"
            )
        return opened.drawing(sample if opened.conditions else replace(sample, scale=1.0))


@dataclass(frozen=True, kw_only=True)
class AutoregressiveConfig(DropsLabels):
    """What all models of a picture as a sequence choose.

    Attributes:
        levels: of a sub-pixel; with fewer than the data has, neighbouring ones become one.
    """

    Sample: ClassVar[type] = ChoiceConfig

    levels: Annotated[int, Bound(ge=2, le=256)] = 256

    @abstractmethod
    def net(self, spec: DataSpec, classes: int | None, folder: Path | None) -> CausalNet:
        """The network, freshly initialised."""

    def build(self, spec: DataSpec, seed: int, folder: Path | None = None) -> Autoregressive:
        import torch

        from reverie.core.errors import InputError
        from reverie.families.autoregressive import Autoregressive

        if "text" in spec.conditions:
            raise InputError(
                f"{self.name} reads no captions: train parti, maskgit or var, or leave --data.captions out"
            )
        if len(spec.shape) != 3 or spec.range != (-1.0, 1.0):
            raise InputError(
                f"{self.name} models pictures (C, H, W) in [−1, 1]: got {spec.shape} in [{spec.range[0]:g}, {spec.range[1]:g}]"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = self.net(spec, len(spec.classes) if "label" in spec.conditions else None, folder)
        return Autoregressive(net, spec, unlabelled=self.unlabelled)

    def modules(self, model: Autoregressive) -> dict[str, nn.Module]:
        return {"net": model.net}

    def task(
        self, model: Autoregressive, data: Dataset, held_out: Dataset, sample: ChoiceConfig, seed: int
    ) -> NextToken:
        from reverie.families.autoregressive import NextToken

        return NextToken(model.drawing(sample), held_out, seed, self.drop)

    def describe(self, model: Autoregressive, spec: DataSpec) -> dict[str, str]:
        return {**super().describe(model, spec), "levels": str(self.levels)}

    def next(self, run: str, data: str) -> str:
        return f"reverie sample {quote(run)}; reverie report {quote(run)}"


@dataclass(frozen=True, kw_only=True)
class PixelCNNConfig(AutoregressiveConfig):
    """Gated PixelCNN (van den Oord et al. 2016): the levels of sub-pixels in raster order.

    Attributes:
        width: channels of each of its two stacks, dealt out to the colours.
        depth: layers.
        reach: pixels that a layer sees in each direction.
        first: pixels that the first layer sees.
        cycle: layers after the first until the dilation, twice as wide from one to the next, is 1 again; 1 for none.
    """

    name: ClassVar[str] = "pixelcnn"

    width: Size = 32
    depth: Size = 8
    reach: Reach = 1
    first: Reach = 3
    cycle: Cycle = 3

    def net(self, spec: DataSpec, classes: int | None, folder: Path | None) -> CausalNet:
        from reverie.families.layout import Layout
        from reverie.families.pixelcnn import PixelCNN

        layout = Layout(spec.shape, self.levels)  # pyright: ignore[reportArgumentType]
        return PixelCNN(layout, classes, self.width, self.depth, self.reach, self.first, self.cycle)


@dataclass(frozen=True, kw_only=True)
class PixelCNNppConfig(AutoregressiveConfig):
    """PixelCNN++ (Salimans et al. 2017): whole pixels in raster order, each from a discretised mixture of logistics.

    Attributes:
        width: channels of each of its two streams.
        depth: blocks of each half; those of the second hear those of the first.
        components: of the mixture.
        dropout: in the blocks.
    """

    name: ClassVar[str] = "pixelcnnpp"

    width: Size = 24
    depth: Size = 3
    components: Size = 10
    dropout: Annotated[float, Bound(ge=0, lt=1)] = 0.0

    def net(self, spec: DataSpec, classes: int | None, folder: Path | None) -> CausalNet:
        from reverie.families.layout import Layout
        from reverie.families.pixelcnnpp import PixelCNNpp

        layout = Layout(spec.shape, self.levels)  # pyright: ignore[reportArgumentType]
        return PixelCNNpp(layout, classes, self.width, self.depth, self.components, self.dropout)


@dataclass(frozen=True, kw_only=True)
class PixelRNNConfig(AutoregressiveConfig):
    """PixelRNN (van den Oord et al. 2016): the levels of sub-pixels in raster order, by LSTM layers over the picture.

    Attributes:
        kind: of the layers: from row to row, or from diagonal to diagonal in both directions.
        width: features, dealt out to the colours.
        depth: layers.
    """

    name: ClassVar[str] = "pixelrnn"

    kind: Literal["row", "diagonal"] = "row"
    width: Size = 48
    depth: Size = 3

    def net(self, spec: DataSpec, classes: int | None, folder: Path | None) -> CausalNet:
        from reverie.families.layout import Layout
        from reverie.families.pixelrnn import PixelRNN

        layout = Layout(spec.shape, self.levels)  # pyright: ignore[reportArgumentType]
        return PixelRNN(layout, classes, self.kind, self.width, self.depth)


@dataclass(frozen=True, kw_only=True)
class SubPixelConfig(AutoregressiveConfig):
    """A transformer over sub-pixels in raster order (Chen et al. 2020), one token each.

    Attributes:
        width: features of a token.
        depth: blocks.
        heads: of attention, a divisor of the width.
        dropout: in the blocks.
    """

    name: ClassVar[str] = "subpixel"

    width: Size = 64
    depth: Size = 4
    heads: Size = 2
    dropout: Annotated[float, Bound(ge=0, lt=1)] = 0.0

    def net(self, spec: DataSpec, classes: int | None, folder: Path | None) -> CausalNet:
        from reverie.families.layout import Layout
        from reverie.families.subpixel import SubPixels

        layout = Layout(spec.shape, self.levels)  # pyright: ignore[reportArgumentType]
        return SubPixels(layout, classes, self.width, self.depth, self.heads, self.dropout)


@dataclass(frozen=True, kw_only=True)
class TileConfig(AutoregressiveConfig):
    """A transformer over square tiles in raster order, one token each.

    Attributes:
        head: codebook, a choice among typical tiles, which draws sharply; mixture, all levels of a tile from a mixture of logistics, whose
            likelihood is exact.
        space: the run of a VQ-VAE whose tokens take the place of tiles (`--space RUN`), or one that is trained first (vq).
        patch: side of a tile in pixels.
        codes: tiles of the codebook.
        components: of the mixture.
        width: features of a token.
        depth: blocks.
        heads: of attention, a divisor of the width.
        dropout: in the blocks.
    """

    name: ClassVar[str] = "tile"

    head: Literal["codebook", "mixture"] = "codebook"
    space: SpaceConfig = field(default_factory=SpaceConfig)
    patch: Size = 4
    codes: Size = 256
    components: Size = 10
    width: Size = 128
    depth: Size = 4
    heads: Size = 4
    dropout: Annotated[float, Bound(ge=0, lt=1)] = 0.0

    def check(self, spec: DataSpec, sample: ChoiceConfig) -> None:
        from reverie.core.errors import InputError

        if self.coded and self.head == "mixture":
            raise InputError(
                "tokens of a space are a choice, tiles with a mixture head are pixels: leave --space out, or --head"
            )
        own = {f.name: f.default for f in fields(self) if f.name in ("patch", "codes", "levels")}
        if self.coded and (idle := [f"--{key}" for key, default in own.items() if getattr(self, key) != default]):
            raise InputError(
                f"tokens of a space are of its own squares, codes and levels: leave {', '.join(idle)} out, or say --space.patch, "
                "--space.codes of a space that is trained first"
            )
        if not Path(self.space.name).expanduser().is_dir():  # of another run's space nothing is known yet
            super().check(spec, sample)
        if self.head == "codebook" and self.codes < 2:
            raise InputError("a codebook of one tile leaves nothing to choose: --codes is at least 2")

    @property
    def coded(self) -> bool:
        """Whether tiles are tokens of a space."""
        return self.space.name != "pixels"

    def prepare(self, given: Given) -> None:
        """Leave the codebook in the run's folder, or the space."""
        if self.coded:
            from reverie.diffusion.building import prepare_space

            return prepare_space(self.space, given)
        from reverie.core.files import inside, write_tensors
        from reverie.families.layout import Layout
        from reverie.families.tile import fit_codebook

        path = inside(given.folder, CODEBOOK)
        if self.head == "codebook" and not path.exists():
            layout = Layout(given.spec.shape, self.levels, self.patch)  # pyright: ignore[reportArgumentType]
            codebook = fit_codebook(given.data, layout, self.codes, given.seed)
            write_tensors(path, {"codebook": codebook}, {"what": "codebook", "patch": self.patch})

    def net(self, spec: DataSpec, classes: int | None, folder: Path | None) -> CausalNet:
        import torch

        from reverie.core.files import read_tensors
        from reverie.families.layout import Layout
        from reverie.families.tile import CodebookTiles, MixtureTiles, SpaceTiles
        from reverie.families.token_net import tokenizer
        from reverie.spaces.vq import VQ

        sizes = (self.width, self.depth, self.heads, self.dropout)
        if self.coded:
            space = tokenizer(self.space, spec, folder, VQ)
            return SpaceTiles(Layout(spec.shape, self.levels, space.patch), classes, *sizes, space)  # pyright: ignore[reportArgumentType]
        layout = Layout(spec.shape, self.levels, self.patch)  # pyright: ignore[reportArgumentType]
        if self.head == "mixture":
            return MixtureTiles(layout, classes, *sizes, self.components)
        blank = torch.zeros(self.codes, layout.values)
        codebook = blank if folder is None else read_tensors(folder / CODEBOOK)["codebook"]
        return CodebookTiles(layout, classes, *sizes, codebook)
