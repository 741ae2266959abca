"""Other families of generative models, on the same data, with the same verbs and measures: each a model, its task and its settings.

Names are imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reverie.families.autoregressive import Autoregressive, CausalNet, NextToken, walk
    from reverie.families.config import PixelCNNConfig, PixelCNNppConfig, PixelRNNConfig, SubPixelConfig, TileConfig
    from reverie.families.gan import GAN
    from reverie.families.latents import interpolate, mix
    from reverie.families.layout import Layout
    from reverie.families.maskgit import MaskGIT
    from reverie.families.stylegan import StyleGAN
    from reverie.families.vae import VAE
    from reverie.families.var import VAR

_HOME = {
    "Autoregressive": "autoregressive",
    "CausalNet": "autoregressive",
    "GAN": "gan",
    "Layout": "layout",
    "NextToken": "autoregressive",
    "PixelCNNConfig": "config",
    "PixelCNNppConfig": "config",
    "PixelRNNConfig": "config",
    "SubPixelConfig": "config",
    "TileConfig": "config",
    "MaskGIT": "maskgit",
    "StyleGAN": "stylegan",
    "VAE": "vae",
    "VAR": "var",
    "interpolate": "latents",
    "mix": "latents",
    "walk": "autoregressive",
}

__all__ = [
    "GAN",
    "VAE",
    "VAR",
    "Autoregressive",
    "CausalNet",
    "Layout",
    "MaskGIT",
    "NextToken",
    "PixelCNNConfig",
    "PixelCNNppConfig",
    "PixelRNNConfig",
    "StyleGAN",
    "SubPixelConfig",
    "TileConfig",
    "interpolate",
    "mix",
    "walk",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"reverie.families.{_HOME[name]}"), name)
