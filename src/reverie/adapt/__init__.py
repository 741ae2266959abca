"""Personalisation: a model taught a few pictures by a small adapter, which stacks, scales and merges, while the base stays.

    mine = rv.adapt.fit(denoise, images, "lora", token="<mine>", like="3")
    model = rv.adapt.apply(denoise, (mine, 0.8))
    images = rv.sample(model, 16, model.conditioner("<mine>"))

Everything is imported on first use, so that reading a recipe needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reverie.adapt.adapter import Adapter, fingerprint, joined
    from reverie.adapt.applying import Outside, apply, load
    from reverie.adapt.break_a_scene import scene
    from reverie.adapt.change import Change
    from reverie.adapt.config import METHODS
    from reverie.adapt.custom import compressed, constrained, merged
    from reverie.adapt.dreambooth import Dense
    from reverie.adapt.formats import write
    from reverie.adapt.lora import DoRA, LowRank
    from reverie.adapt.mixing import mixed
    from reverie.adapt.styledrop import again, styled
    from reverie.adapt.svdiff import Spectral
    from reverie.adapt.training import Personalising, fit

_HOME = {
    "METHODS": "config",
    "Adapter": "adapter",
    "Change": "change",
    "Dense": "dreambooth",
    "DoRA": "lora",
    "LowRank": "lora",
    "Outside": "applying",
    "Personalising": "training",
    "Spectral": "svdiff",
    "again": "styledrop",
    "apply": "applying",
    "compressed": "custom",
    "constrained": "custom",
    "fingerprint": "adapter",
    "fit": "training",
    "joined": "adapter",
    "load": "applying",
    "merged": "custom",
    "mixed": "mixing",
    "scene": "break_a_scene",
    "styled": "styledrop",
    "write": "formats",
}

__all__ = [
    "METHODS",
    "Adapter",
    "Change",
    "Dense",
    "DoRA",
    "LowRank",
    "Outside",
    "Personalising",
    "Spectral",
    "again",
    "apply",
    "compressed",
    "constrained",
    "fingerprint",
    "fit",
    "joined",
    "load",
    "merged",
    "mixed",
    "scene",
    "styled",
    "write",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"reverie.adapt.{_HOME[name]}"), name)
    globals()[name] = value
    return value
