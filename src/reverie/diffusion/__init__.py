"""Training diffusion models: the denoising objective, classifiers of noisy samples, and the tasks that recipes name.

Everything is imported on first use, so that reading a recipe needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reverie.diffusion.classifying import Classifying
    from reverie.diffusion.denoising import Denoising
    from reverie.diffusion.genie import Genie
    from reverie.diffusion.online import Online
    from reverie.diffusion.reflow import Reflow

_HOME = {
    "Classifying": "classifying",
    "Denoising": "denoising",
    "Genie": "genie",
    "Online": "online",
    "Reflow": "reflow",
}

__all__ = ["Classifying", "Denoising", "Genie", "Online", "Reflow"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"reverie.diffusion.{_HOME[name]}"), name)
