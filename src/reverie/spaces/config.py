"""The settings of spaces. Cheap to import: the command line makes its flags from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from reverie.core.bounds import Bound
from reverie.core.task import TaskConfig

if TYPE_CHECKING:
    from torch import nn

    from reverie.core.batch import Dataset, DataSpec
    from reverie.spaces.latent import Latent
    from reverie.spaces.tokenizing import Tokenizing

FILE = "space.safetensors"
"""Where a run keeps the space that it works in."""


@dataclass(frozen=True, kw_only=True)
class SpaceConfig:
    """What is diffused: the pixels, or the codes of a tokenizer.

    Attributes:
        name: pixels; pca, patch-wise principal components; patch-ae or patch-vae, a linear auto-encoder or variational one of each patch;
            conv-vae, a convolutional variational auto-encoder; or the folder of a run that trained one (`reverie train autoencoder`).
        patch: side in pixels of the square that one code stands for; a power of two for the convolutional one.
        dims: numbers per code.
        kl: weight of the divergence of a variational code from N(0, 1), in units of the squared error of one pixel.
        width: channels of the convolutional one.
        images: images that a trained tokenizer sees.
    """

    name: str = "pixels"
    patch: Annotated[int, Bound(ge=1, le=1024)] = 4
    dims: Annotated[int, Bound(ge=1, le=65_536)] = 16
    kl: Annotated[float, Bound(ge=0)] = 1e-3
    width: Annotated[int, Bound(ge=1, le=65_536)] = 32
    images: Annotated[int, Bound(ge=1, le=10**12)] = 100_000


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig(TaskConfig):
    """A tokenizer on its own, for other runs to work in (`--space RUN`).

    Attributes:
        kind: a linear auto-encoder or variational one of each patch, or a convolutional variational auto-encoder.
        patch: side in pixels of the square that one code stands for; a power of two for the convolutional one.
        dims: numbers per code.
        kl: weight of the divergence of a variational code from N(0, 1), in units of the squared error of one pixel.
        width: channels of the convolutional one.
        adversarial: weight of a discriminator of patches; 0 for none.
    """

    name: ClassVar[str] = "autoencoder"

    kind: Literal["patch-ae", "patch-vae", "conv-vae"] = "conv-vae"
    patch: Annotated[int, Bound(ge=1, le=1024)] = 4
    dims: Annotated[int, Bound(ge=1, le=65_536)] = 4
    kl: Annotated[float, Bound(ge=0)] = 1e-3
    width: Annotated[int, Bound(ge=1, le=65_536)] = 32
    adversarial: Annotated[float, Bound(ge=0)] = 0.0

    def build(self, spec: DataSpec, seed: int, folder: Path | None = None) -> Latent:
        import torch

        from reverie.spaces.files import build

        config = SpaceConfig(name=self.kind, patch=self.patch, dims=self.dims, kl=self.kl, width=self.width)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            space = build(config, spec.shape[0])
        space.code_shape(spec.shape)
        return space

    def next(self, run: str, data: str) -> str:
        return f"reverie train --data {quote(data)} --space {quote(run)} --net.patch 1"

    def modules(self, model: Latent) -> dict[str, nn.Module]:
        return {"space": model}

    def task(self, model: Latent, data: Dataset, held_out: Dataset, sample: Any, seed: int) -> Tokenizing:
        import torch

        from reverie.spaces.tokenizing import Discriminator, Tokenizing

        discriminator = None
        if self.adversarial:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed + 1)
                discriminator = Discriminator(data.spec.shape[0])
        return Tokenizing(model, data, held_out, discriminator=discriminator, adversarial=self.adversarial)
