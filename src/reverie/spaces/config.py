"""The settings of spaces. Cheap to import: the command line makes its flags from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from reverie.core.bounds import Bound

FILE = "space.safetensors"
"""Where a run keeps the space that it works in."""


@dataclass(frozen=True, kw_only=True)
class SpaceConfig:
    """What is diffused: the pixels, or the codes of a tokenizer.

    Attributes:
        name: pixels; pca, patch-wise principal components; patch-ae or patch-vae, a linear auto-encoder or variational one of each patch;
            conv-ae or conv-vae, a convolutional one; vq, whose codes are among few, or multiscale-vq, the same at growing scales; or the
            folder of a run that trained one (`reverie train autoencoder`).
        patch: side in pixels of the square that one code stands for.
        dims: numbers per code.
        kl: weight of the divergence of a variational code from N(0, 1), in units of the squared error of one pixel.
        width: channels of a convolutional one.
        codes: how many different codes there are, where they are among few.
        images: images that a trained tokenizer sees, in at most half of a --budget.
        batch: images a step of its optimizer.
        perceptual: also compare pictures in the features of a trained network: efficientnet-lite0 (`reverie prefetch` brings it), the
            folder of a run that trained a judge, or a bundled one (mnist5k).
        adversarial: how much a discriminator of patches moves the decoder's last layer, beside the distance to the picture (.8 in VQ-GAN,
            .5 in the KL auto-encoder); 0 for none.
    """

    name: str = "pixels"
    patch: Annotated[int, Bound(ge=1, le=1024)] = 4
    dims: Annotated[int, Bound(ge=1, le=65_536)] = 16
    kl: Annotated[float, Bound(ge=0)] = 1e-3
    width: Annotated[int, Bound(ge=1, le=65_536)] = 32
    codes: Annotated[int, Bound(ge=2, le=2**20)] = 256
    images: Annotated[int, Bound(ge=1, le=10**12)] = 100_000
    batch: Annotated[int, Bound(ge=1, le=10**6)] = 64
    perceptual: str | None = None
    adversarial: Annotated[float, Bound(ge=0)] = 0.0
