"""Reading: what a diffusion model has learned. Names are imported on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reverie.read.extract import features
    from reverie.read.maps import attention, blocks, of_module
    from reverie.read.store import Features, Stored

_HOME = {
    "Features": "store",
    "Stored": "store",
    "attention": "maps",
    "blocks": "maps",
    "features": "extract",
    "of_module": "maps",
}

__all__ = ["Features", "Stored", "attention", "blocks", "features", "of_module"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"reverie.read.{_HOME[name]}"), name)
    globals()[name] = value
    return value
