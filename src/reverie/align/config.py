"""The settings of a diffusion auto-encoder. Cheap to import: the command line makes its flags from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from reverie.core.bounds import Bound
from reverie.core.task import NoSample
from reverie.diffusion.config import OnPath
from reverie.nets.config import CONFIGS, EncoderConfig, NetConfig

if TYPE_CHECKING:
    from torch import nn

    from reverie.align.diffae import SemanticDenoising
    from reverie.core.batch import Dataset, DataSpec
    from reverie.core.denoiser import NetDenoiser


@dataclass(frozen=True, kw_only=True)
class DiffAEConfig(OnPath):
    """A diffusion auto-encoder: what a picture means is one vector, which the denoiser is conditioned on (Preechakul et al. 2022).

    Attributes:
        net: the denoiser's network, one that takes a vector (unet, dit).
        encoder: the network that makes the vector.
        dim: numbers of the vector.
        kind: what the denoiser predicts.
    """

    name: ClassVar[str] = "diffae"
    Sample: ClassVar[type] = NoSample

    net: NetConfig = field(default_factory=CONFIGS["unet"])
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    dim: Annotated[int, Bound(ge=1, le=65_536)] = 32
    kind: Literal["flow", "v", "x0", "eps", "straight", "edm"] = "flow"

    def check(self, spec: DataSpec, sample: Any) -> None:
        from reverie.core.errors import InputError
        from reverie.diffusion.building import learns_variance

        if learns_variance(self.net):
            raise InputError(
                "a diffusion auto-encoder is trained by the squared error alone: leave out net.learn_sigma"
            )
        self.build(spec, 0)

    def build(self, spec: DataSpec, seed: int, folder: Path | None = None) -> NetDenoiser:
        from reverie.align.diffae import build

        return build(self, spec, seed, folder)

    def modules(self, model: NetDenoiser) -> dict[str, nn.Module]:
        return {"denoiser": model.net}

    def task(self, model: NetDenoiser, data: Dataset, held_out: Dataset, sample: Any, seed: int) -> SemanticDenoising:
        from reverie.align.diffae import SemanticDenoising
        from reverie.diffusion.building import times, unseen

        return SemanticDenoising(model, times(self, model.schedule), held_out=unseen(held_out))

    def describe(self, model: NetDenoiser, spec: DataSpec) -> dict[str, str]:
        return {**super().describe(model, spec), "shape": "x".join(map(str, model.shape)), "kind": model.kind.name}
