"""The settings of the other families. Cheap to import: the command line makes its flags from them."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from reverie.core.bounds import Bound
from reverie.core.task import TaskConfig

if TYPE_CHECKING:
    from torch import nn

    from reverie.core.batch import Dataset, DataSpec
    from reverie.families.autoregressive import Autoregressive, CausalNet, NextToken

Size = Annotated[int, Bound(ge=1, le=65_536)]
Reach = Annotated[int, Bound(ge=1, le=64)]


@dataclass(frozen=True, kw_only=True)
class ChoiceConfig:
    """How each number is drawn from its distribution.

    Attributes:
        temperature: below 1 the likely is drawn more often than the model says.
    """

    temperature: Annotated[float, Bound(gt=0)] = 1.0


@dataclass(frozen=True, kw_only=True)
class AutoregressiveConfig(TaskConfig):
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

        if len(spec.shape) != 3 or spec.range != (-1.0, 1.0):
            raise InputError(
                f"{self.name} models pictures (C, H, W) in [−1, 1]: got {spec.shape} in [{spec.range[0]:g}, {spec.range[1]:g}]"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Autoregressive(
                self.net(spec, len(spec.classes) if "label" in spec.conditions else None, folder), spec
            )

    def modules(self, model: Autoregressive) -> dict[str, nn.Module]:
        return {"net": model.net}

    def task(
        self, model: Autoregressive, data: Dataset, held_out: Dataset, sample: ChoiceConfig, seed: int
    ) -> NextToken:
        from reverie.families.autoregressive import NextToken

        return NextToken(self.generator(model, sample), held_out, seed)

    def generator(self, opened: Autoregressive, sample: ChoiceConfig) -> Autoregressive:
        opened.temperature = sample.temperature
        return opened

    def describe(self, model: Autoregressive, spec: DataSpec) -> dict[str, str]:
        return {**super().describe(model, spec), "levels": str(self.levels)}

    def next(self, run: str, data: str) -> str:
        return f"reverie sample {quote(run)}; reverie report {quote(run)}"


@dataclass(frozen=True, kw_only=True)
class PixelCNNConfig(AutoregressiveConfig):
    """Gated PixelCNN (van den Oord et al. 2016): the levels of sub-pixels in raster order.

    Attributes:
        width: channels of each of its two stacks, a multiple of the colours.
        depth: layers.
        reach: pixels that a layer sees in each direction.
        first: pixels that the first layer sees.
    """

    name: ClassVar[str] = "pixelcnn"

    width: Size = 48
    depth: Size = 8
    reach: Reach = 1
    first: Reach = 3

    def net(self, spec: DataSpec, classes: int | None, folder: Path | None) -> CausalNet:
        from reverie.families.layout import Layout
        from reverie.families.pixelcnn import PixelCNN

        layout = Layout(spec.shape, self.levels)  # pyright: ignore[reportArgumentType]
        return PixelCNN(layout, classes, self.width, self.depth, self.reach, self.first)
