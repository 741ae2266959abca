"""The world's checkpoints: folders in diffusers' format opened, LoRA files merged, and our networks written back::

    model = rv.load("stable-diffusion-folder")
    cond = model.conditioner("a red fox", negative="blurry")
    images = rv.sample(rv.guide.cfg(model, 7.5), cond=cond, **model.scheduler(30))

Nothing in a folder is executed, and pickles are refused.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from reverie.bridge.folder import is_folder

if TYPE_CHECKING:
    from reverie.bridge.holes import inpainting
    from reverie.bridge.kl import KL
    from reverie.bridge.loading import Pretrained
    from reverie.bridge.loading import open_folder as load
    from reverie.bridge.lora import merge
    from reverie.bridge.scheduler import Scheduler
    from reverie.bridge.writing import refusal, write, write_controlnet

_HOME = {
    "KL": ("kl", "KL"),
    "Pretrained": ("loading", "Pretrained"),
    "Scheduler": ("scheduler", "Scheduler"),
    "inpainting": ("holes", "inpainting"),
    "load": ("loading", "open_folder"),
    "merge": ("lora", "merge"),
    "refusal": ("writing", "refusal"),
    "write": ("writing", "write"),
    "write_controlnet": ("writing", "write_controlnet"),
}

__all__ = [
    "KL", "Pretrained", "Scheduler", "inpainting", "is_folder", "load", "merge", "refusal", "write", "write_controlnet",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'reverie.bridge' has no attribute {name!r}")
    module, attribute = _HOME[name]
    return getattr(import_module(f"reverie.bridge.{module}"), attribute)
