"""The settings of a space. Cheap to import: the command line makes its flags from them."""

from dataclasses import dataclass
from typing import Annotated, Literal

from reverie.core.bounds import Bound

Name = Literal["pixels", "pca", "patch-ae", "patch-vae", "conv-vae"]


@dataclass(frozen=True, kw_only=True)
class SpaceConfig:
    """What is diffused: the pixels, or the codes of a tokenizer made from the same data.

    Attributes:
        name: pixels; patch-wise principal components; a linear auto-encoder or variational one of each patch; or a convolutional
            variational auto-encoder.
        patch: side in pixels of the square that one code stands for; a power of two for the convolutional one.
        dims: numbers per code.
        kl: weight of the divergence of a variational code from N(0, 1), in units of the squared error of one pixel.
        width: channels of the convolutional one.
        images: images that a trained tokenizer sees.
    """

    name: Name = "pixels"
    patch: Annotated[int, Bound(ge=1, le=1024)] = 4
    dims: Annotated[int, Bound(ge=1, le=65_536)] = 16
    kl: Annotated[float, Bound(ge=0)] = 1e-3
    width: Annotated[int, Bound(ge=1, le=65_536)] = 32
    images: Annotated[int, Bound(ge=1, le=10**12)] = 100_000
