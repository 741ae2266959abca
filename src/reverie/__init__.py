"""Reverie: train, sample, guide, measure and understand diffusion models.

    import reverie as rv

    denoise = rv.load("runs/digits")
    images = rv.sample(rv.guide.cfg(denoise, scale=3.0), n=16, cond=rv.Cond(label=7), steps=12, seed=0)

Every name below is imported on first use (PEP 562), so that `import reverie` costs nothing: torch arrives with the
first room that needs it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reverie import (
        adapt,
        align,
        bridge,
        core,
        data,
        diffusion,
        distill,
        edit,
        families,
        guide,
        inverse,
        learn,
        measure,
        nets,
        read,
        recipes,
        solve,
        spaces,
    )
    from reverie.core.condition import Cond
    from reverie.learn.pictures import save, show, to_pil
    from reverie.nets import taps
    from reverie.recipes.runs import load
    from reverie.recipes.training import train
    from reverie.solve import grids, invert, iterate, log_prob, sample

    __version__: str

__all__ = [
    "Cond",
    "__version__",
    "adapt",
    "align",
    "bridge",
    "core",
    "data",
    "diffusion",
    "distill",
    "edit",
    "families",
    "grids",
    "guide",
    "inverse",
    "invert",
    "iterate",
    "learn",
    "load",
    "log_prob",
    "measure",
    "nets",
    "read",
    "recipes",
    "sample",
    "save",
    "show",
    "solve",
    "spaces",
    "taps",
    "to_pil",
    "train",
]

_HOME = {
    "Cond": "reverie.core.condition",
    "grids": "reverie.solve",
    "invert": "reverie.solve",
    "iterate": "reverie.solve",
    "load": "reverie.recipes.runs",
    "log_prob": "reverie.solve",
    "sample": "reverie.solve",
    "save": "reverie.learn.pictures",
    "show": "reverie.learn.pictures",
    "taps": "reverie.nets",
    "to_pil": "reverie.learn.pictures",
    "train": "reverie.recipes.training",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'reverie' has no attribute {name!r}")
    if name == "__version__":
        from importlib.metadata import version

        value = version("reverie")
    elif name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
    else:
        value = import_module(f"reverie.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
