"""Recipes: everything that makes a run, as data; and runs, as folders. Imported on first use, so that help needs no torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reverie.recipes.recipe import Recipe
    from reverie.recipes.runs import Run, load
    from reverie.recipes.tasks import register
    from reverie.recipes.training import train

__all__ = ["Recipe", "Run", "load", "register", "train"]

_HOME = {"Recipe": "recipe", "Run": "runs", "load": "runs", "register": "tasks", "train": "training"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"reverie.recipes.{_HOME[name]}"), name)
