"""The settings of retrieval-augmented diffusion. Cheap to import: the command line makes its flags from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from reverie.core.bounds import Bound
from reverie.core.task import Given
from reverie.diffusion.config import DenoisingConfig, OnPath, SampleConfig
from reverie.nets.config import CONFIGS, NetConfig

if TYPE_CHECKING:
    from torch import nn

    from reverie.core.batch import Dataset, DataSpec
    from reverie.diffusion.denoising import Denoising
    from reverie.diffusion.rdm import RDM


@dataclass(frozen=True, kw_only=True)
class RDMConfig(OnPath):
    """A diffusion model that is told the neighbours of a picture in a database, which may be swapped later (Blattmann et al. 2022).

    Attributes:
        embed: what finds neighbours: a run of the task towers or judge, a folder of transformers with a CLIP, or a bundled judge's name.
        k: neighbours.
        net: the network, one that attends to a text (unet, dit, uvit, mmdit).
        kind: what it predicts.
        drop: share of the images whose neighbours are dropped, so that guidance works.
    """

    name: ClassVar[str] = "rdm"
    Sample: ClassVar[type] = SampleConfig

    embed: str = ""
    k: Annotated[int, Bound(ge=1, le=1_024)] = 4
    net: NetConfig = field(default_factory=CONFIGS["unet"])
    kind: Literal["flow", "v", "x0", "eps", "straight", "edm"] = "flow"
    drop: Annotated[float, Bound(ge=0, le=1)] = 0.1

    @property
    def denoising(self) -> DenoisingConfig:
        """The settings of its diffusion by itself."""
        shared = {key: getattr(self, key) for key in ("space", "schedule", "time", "times", "times_mean", "times_std")}
        return DenoisingConfig(net=self.net, kind=self.kind, drop=self.drop, **shared)

    def check(self, spec: DataSpec, sample: SampleConfig) -> None:
        from reverie.core.errors import InputError
        from reverie.diffusion.building import solving
        from reverie.diffusion.retrieving import alone

        solving(sample)
        if not self.embed:
            raise InputError(
                "neighbours are found by a model that knows what pictures show: give --embed RUN, of `reverie train towers` or judge, "
                "the folder of a CLIP, or a bundled judge such as mnist5k"
            )
        alone(spec)
        if not Path(self.space.name).expanduser().is_dir():
            self.build(spec, 0)

    def prepare(self, given: Given) -> None:
        from reverie.diffusion.retrieving import prepare

        super().prepare(given)
        prepare(self.embed, given)

    def examples(self, data: Dataset, held_out: Dataset, folder: Path, codes: Path) -> tuple[Dataset, Dataset]:
        from reverie.diffusion.retrieving import examples

        return examples(self, data, held_out, folder, codes)

    def build(self, spec: DataSpec, seed: int, folder: Path | None = None) -> RDM:
        from reverie.diffusion.retrieving import build

        return build(self, spec, seed, folder)

    def modules(self, model: RDM) -> dict[str, nn.Module]:
        return {"denoiser": model.modules()["denoiser"]}

    def task(self, model: RDM, data: Any, held_out: Dataset, sample: SampleConfig, seed: int) -> Denoising:
        from reverie.diffusion.retrieving import task

        return task(self, model, data, held_out)

    def describe(self, model: RDM, spec: DataSpec) -> dict[str, str]:
        return {**super().describe(model, spec), "kind": self.kind, "neighbours": f"{self.k}x{model.database.dim}"}

    def generator(self, opened: RDM, sample: SampleConfig) -> RDM:
        from reverie.diffusion.building import guided, solving
        from reverie.diffusion.rdm import RDM

        return RDM(guided(self.denoising, opened.denoise, sample), opened.database, self.k, **solving(sample))

    def next(self, run: str, data: str) -> str:
        return f"reverie sample {quote(run)}; reverie report {quote(run)}"

    def usual(self, sample: SampleConfig) -> Any:
        return self.denoising.usual(sample)
