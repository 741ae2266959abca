"""Tasks whose networks are shown a picture. Cheap to import: the command line makes its flags from these classes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from reverie.core.bounds import STEPS, Bound
from reverie.core.errors import InputError
from reverie.core.names import GridName
from reverie.diffusion.config import OnPath
from reverie.nets.config import CONFIGS, NetConfig

if TYPE_CHECKING:
    from torch import nn

    from reverie.core.batch import Dataset, DataSpec
    from reverie.core.denoiser import NetDenoiser
    from reverie.diffusion.palette import Palette


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
class PaletteConfig(OnPath):
    """Restoration that is learned: the network is shown the damaged picture beside the noise (Saharia et al. 2022, Palette).

    Attributes:
        op: what happens to the pictures: holes of any form, a frame or side that is missing, grey in place of colours, JPEG of quality
            5 to 30, or one so much smaller.
        factor: of superres, how much smaller.
        reference: show another picture of the same class too.
        augment: noise of a random level, which the network is told, is added to what it is shown, so that it serves on pictures that
            another model drew (Ho et al. 2022, cascades).
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

    def examples(self, data: Dataset, held_out: Dataset, folder: Path) -> tuple[Dataset, Dataset]:
        """With a reference, each picture beside the next of its class."""
        from reverie.diffusion.palette import Referred

        return (Referred(data), Referred(held_out) if len(held_out) else held_out) if self.reference else (data, held_out)

    def task(self, model: NetDenoiser, data: Dataset, held_out: Dataset, sample: RestoreConfig, seed: int) -> Palette:
        from reverie.diffusion.palette import task

        return task(self, model, data, held_out, sample, seed)

    def describe(self, model: NetDenoiser, spec: DataSpec) -> dict[str, str]:
        return {**super().describe(model, spec), "kind": model.kind.name, "op": self.op}

    def generator(self, opened: NetDenoiser, sample: Any) -> Any:
        raise InputError(
            f"a run of palette draws what a damaged picture may have been ({self.op}): `reverie restore RUN --image FILE`"
        )
