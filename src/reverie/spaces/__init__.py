"""Spaces: between data and what is diffused, or told in tokens. Each codes square patches of a picture as a smaller one with more channels;
:class:`VectorVAE` all of it as one vector.

A space goes into a denoiser as ``NetDenoiser(net, …, shape=space.code_shape((C, H, W)), space=space)``: sampling, inversion and training
cross it by themselves.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reverie.spaces.config import SpaceConfig
    from reverie.spaces.convolutional import ConvAE
    from reverie.spaces.files import build, load, save
    from reverie.spaces.latent import Latent
    from reverie.spaces.multiscale import MultiScaleVQ
    from reverie.spaces.patchwise import PatchAE, PatchVAE
    from reverie.spaces.pca import PatchPCA
    from reverie.spaces.vae import ConvVAE
    from reverie.spaces.vector import VectorVAE
    from reverie.spaces.vq import VQ

_HOME = {
    "VQ": "vq",
    "ConvAE": "convolutional",
    "ConvVAE": "vae",
    "Latent": "latent",
    "MultiScaleVQ": "multiscale",
    "PatchAE": "patchwise",
    "PatchPCA": "pca",
    "PatchVAE": "patchwise",
    "SpaceConfig": "config",
    "VectorVAE": "vector",
    "build": "files",
    "load": "files",
    "save": "files",
}

__all__ = [
    "VQ",
    "ConvAE",
    "ConvVAE",
    "Latent",
    "MultiScaleVQ",
    "PatchAE",
    "PatchPCA",
    "PatchVAE",
    "SpaceConfig",
    "VectorVAE",
    "build",
    "load",
    "save",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"reverie.spaces.{_HOME[name]}"), name)
