"""Training diffusion models: the denoising objectives, classifiers of noisy samples, and the tasks that recipes name.

Everything is imported on first use, so that reading a recipe needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reverie.diffusion.classifying import Classifying
    from reverie.diffusion.control import Control, Controlling
    from reverie.diffusion.denoising import Denoising
    from reverie.diffusion.genie import Genie
    from reverie.diffusion.online import Online
    from reverie.diffusion.palette import Palette
    from reverie.diffusion.reflow import Reflow
    from reverie.diffusion.vlb import VLB, Hybrid

_HOME = {
    "VLB": "vlb",
    "Classifying": "classifying",
    "Control": "control",
    "Controlling": "control",
    "Denoising": "denoising",
    "Genie": "genie",
    "Hybrid": "vlb",
    "Online": "online",
    "Palette": "palette",
    "Reflow": "reflow",
}

__all__ = [
    "VLB",
    "Classifying",
    "Control",
    "Controlling",
    "Denoising",
    "Genie",
    "Hybrid",
    "Online",
    "Palette",
    "Reflow",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"reverie.diffusion.{_HOME[name]}"), name)
