"""Generators of other kinds than diffusion, trained, sampled and measured by the same verbs on the same data.

Everything is imported on first use, so that reading a recipe needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reverie.families.gan import GAN
    from reverie.families.latents import interpolate, mix
    from reverie.families.stylegan import StyleGAN

_HOME = {
    "GAN": "gan",
    "StyleGAN": "stylegan",
    "interpolate": "latents",
    "mix": "latents",
}

__all__ = ["GAN", "StyleGAN", "interpolate", "mix"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"reverie.families.{_HOME[name]}"), name)
