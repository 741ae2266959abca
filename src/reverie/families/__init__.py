"""Generators of other kinds than diffusion, trained, sampled and measured by the same verbs on the same data.

Everything is imported on first use, so that reading a recipe needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reverie.families.maskgit import MaskGIT
    from reverie.families.vae import VAE
    from reverie.families.var import VAR

_HOME = {
    "VAE": "vae",
    "VAR": "var",
    "MaskGIT": "maskgit",
}

__all__ = ["VAE", "VAR", "MaskGIT"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"reverie.families.{_HOME[name]}"), name)
