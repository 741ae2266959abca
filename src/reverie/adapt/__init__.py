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
    from reverie.adapt.e4t import Offsets
    from reverie.adapt.encoder import AdapterEncoder, encode
    from reverie.adapt.formats import write
    from reverie.adapt.hyperdreambooth import Light, relaxed
    from reverie.adapt.lora import DoRA, LowRank
    from reverie.adapt.mixing import mixed
    from reverie.adapt.sights import Sight
    from reverie.adapt.styledrop import again, styled
    from reverie.adapt.svdiff import Spectral
    from reverie.adapt.training import Personalising, fit

_HOME = {
    "METHODS": "config",
    "Adapter": "adapter",
    "AdapterEncoder": "encoder",
    "Change": "change",
    "Dense": "dreambooth",
    "DoRA": "lora",
    "Light": "hyperdreambooth",
    "LowRank": "lora",
    "Offsets": "e4t",
    "Outside": "applying",
    "Personalising": "training",
    "Sight": "sights",
    "Spectral": "svdiff",
    "again": "styledrop",
    "apply": "applying",
    "compressed": "custom",
    "constrained": "custom",
    "encode": "encoder",
    "fingerprint": "adapter",
    "fit": "training",
    "joined": "adapter",
    "load": "applying",
    "merged": "custom",
    "mixed": "mixing",
    "relaxed": "hyperdreambooth",
    "scene": "break_a_scene",
    "styled": "styledrop",
    "write": "formats",
}

__all__ = [
    "METHODS",
    "Adapter",
    "AdapterEncoder",
    "Change",
    "Dense",
    "DoRA",
    "Light",
    "LowRank",
    "Offsets",
    "Outside",
    "Personalising",
    "Sight",
    "Spectral",
    "again",
    "apply",
    "compressed",
    "constrained",
    "encode",
    "fingerprint",
    "fit",
    "joined",
    "load",
    "merged",
    "mixed",
    "relaxed",
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
