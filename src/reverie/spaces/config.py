"""The settings of a space. Cheap to import: the command line makes its flags from them."""

from dataclasses import dataclass
from typing import Literal

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
    patch: int = 4
    dims: int = 16
    kl: float = 1e-3
    width: int = 32
    images: int = 100_000
