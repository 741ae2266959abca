"""The settings of unCLIP's two models. Cheap to import: the command line makes its flags from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from reverie.core.bounds import Bound
from reverie.core.task import Given, NoSample
from reverie.diffusion.config import DenoisingConfig, OnPath, SampleConfig
from reverie.nets.config import CONFIGS, NetConfig

if TYPE_CHECKING:
    from torch import nn

    from reverie.core.batch import Dataset, DataSpec
    from reverie.core.denoiser import Denoiser, NetDenoiser
    from reverie.diffusion.denoising import Denoising
    from reverie.solve import Sampler


@dataclass(frozen=True, kw_only=True)
class Embedding(OnPath):
    """What prior and decoder share.

    Attributes:
        embed: what makes vectors: a run of the task towers, or a folder of transformers with a CLIP; for the decoder a judge's run too.
        drop: share of the samples whose vector is dropped, so that guidance works.
    """

    embed: str = ""
    drop: Annotated[float, Bound(ge=0, le=1)] = 0.1

    def check(self, spec: DataSpec, sample: Any) -> None:
        from reverie.core.errors import InputError

        if not self.embed:
            raise InputError(
                "unCLIP is told vectors of a picture-text model: give --embed RUN, of `reverie train towers`, or the folder of a CLIP"
            )
        if not Path(self.space.name).expanduser().is_dir():
            self.build(spec, 0)

    def modules(self, model: NetDenoiser) -> dict[str, nn.Module]:
        return {"denoiser": model.net}

    def describe(self, model: NetDenoiser, spec: DataSpec) -> dict[str, str]:
        return {**super().describe(model, spec), "shape": "x".join(map(str, model.shape)), "kind": model.kind.name}

    def task(self, model: NetDenoiser, data: Any, held_out: Dataset, sample: Any, seed: int) -> Denoising:
        from reverie.diffusion.unclipping import task

        return task(self, model, data, held_out)


@dataclass(frozen=True, kw_only=True)
class DecoderConfig(Embedding):
    """unCLIP's decoder: a diffusion model that is told the vector of a picture (Ramesh et al. 2022).

    Attributes:
        net: the network, one that takes a vector (unet, dit).
        kind: what it predicts.
    """

    name: ClassVar[str] = "unclip"
    Sample: ClassVar[type] = SampleConfig

    net: NetConfig = field(default_factory=CONFIGS["unet"])
    kind: Literal["flow", "v", "x0", "eps", "straight", "edm"] = "flow"

    @property
    def denoising(self) -> DenoisingConfig:
        """The settings of its diffusion by itself."""
        return DenoisingConfig(drop=self.drop)

    def check(self, spec: DataSpec, sample: SampleConfig) -> None:
        from reverie.diffusion.building import solving
        from reverie.diffusion.retrieving import alone

        solving(sample)
        alone(spec)
        super().check(spec, sample)

    def prepare(self, given: Given) -> None:
        from reverie.diffusion.retrieving import prepare

        super().prepare(given)
        prepare(self.embed, given)

    def examples(self, data: Dataset, held_out: Dataset, folder: Path, codes: Path) -> tuple[Dataset, Dataset]:
        from reverie.diffusion.unclipping import decoded

        return decoded(self, data, held_out, folder, codes)

    def build(self, spec: DataSpec, seed: int, folder: Path | None = None) -> NetDenoiser:
        from reverie.diffusion.unclipping import decoder

        return decoder(self, spec, seed, folder)

    def generator(self, opened: Denoiser, sample: SampleConfig) -> Sampler:
        from reverie.diffusion.building import sampler

        return sampler(self.denoising, opened, sample)

    def next(self, run: str, data: str) -> str:
        return f"reverie sample {quote(run)}; reverie report {quote(run)}"

    def usual(self, sample: SampleConfig) -> Any:
        return self.denoising.usual(sample)


@dataclass(frozen=True, kw_only=True)
class PriorConfig(Embedding):
    """unCLIP's prior: a causal transformer that draws the vector of a picture given that of a text (Ramesh et al. 2022).

    Attributes:
        width: features of a token.
        depth: blocks.
        heads: of attention.
    """

    name: ClassVar[str] = "unclip-prior"
    Sample: ClassVar[type] = NoSample

    width: Annotated[int, Bound(ge=1, le=65_536)] = 256
    depth: Annotated[int, Bound(ge=1, le=1_000)] = 4
    heads: Annotated[int, Bound(ge=1, le=65_536)] = 4

    def check(self, spec: DataSpec, sample: Any) -> None:
        from reverie.core.errors import InputError

        if self.space.name != "pixels":
            raise InputError("a prior draws vectors, which have no space: leave --space out")
        super().check(spec, sample)

    def prepare(self, given: Given) -> None:
        from reverie.diffusion.unclipping import prepare_texts

        prepare_texts(self.embed, given)

    def examples(self, data: Dataset, held_out: Dataset, folder: Path, codes: Path) -> tuple[Dataset, Dataset]:
        from reverie.diffusion.unclipping import pairs

        return pairs(folder, "train"), pairs(folder, "held_out")

    def build(self, spec: DataSpec, seed: int, folder: Path | None = None) -> NetDenoiser:
        from reverie.diffusion.unclipping import prior

        return prior(self, seed, folder)
