"""Networks: ``net(x, time, cond)`` maps noisy pictures ``(B, C, H, W)`` to the same shape.

``time`` is a float tensor () or (B,) of order 1, ``cond`` a ``Cond`` or None; ``net.conditions`` says what a network
understands.
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import TYPE_CHECKING

from reverie.nets.config import (
    CONFIGS,
    DiTConfig,
    EncoderConfig,
    JiTConfig,
    MMDiTConfig,
    NetConfig,
    UNetConfig,
    UViTConfig,
)
from reverie.nets.presets import PRESETS

if TYPE_CHECKING:
    from reverie.nets import taps
    from reverie.nets.dit import DiT
    from reverie.nets.encoder import Encoder
    from reverie.nets.jit import JiT
    from reverie.nets.mmdit import MMDiT
    from reverie.nets.network import Network
    from reverie.nets.unet import UNet
    from reverie.nets.uvit import UViT

NETWORKS = {
    DiTConfig: ("dit", "DiT"),
    UNetConfig: ("unet", "UNet"),
    UViTConfig: ("uvit", "UViT"),
    MMDiTConfig: ("mmdit", "MMDiT"),
    JiTConfig: ("jit", "JiT"),
    EncoderConfig: ("encoder", "Encoder"),
}
"""Where the network of each configuration lives: module and class."""

__all__ = [
    "CONFIGS", "PRESETS", "DiT", "DiTConfig", "Encoder", "EncoderConfig", "JiT", "JiTConfig", "MMDiT", "MMDiTConfig",
    "NetConfig", "UNet", "UNetConfig", "UViT", "UViTConfig", "build", "taps",
]  # fmt: skip


def build(
    config: NetConfig | EncoderConfig | str,
    *,
    channels: int | None = None,
    size: int | tuple[int, ...] | None = None,
    classes: int | None = None,
    image: int = 0,
) -> Network:
    """The network that a configuration describes, or a published one by name.

    Args:
        config: a configuration, or a name in :data:`PRESETS`, which brings its own channels, size and classes.
        channels: channels of the picture.
        size: its height and width in pixels (one number if square).
        classes: number of classes, or None for a network without labels.
        image: channels of a picture that it is shown as the condition "image", in place of the configuration's.

    Raises:
        InputError: for an unknown name, for a configuration without channels and size, or if the network cannot take that size.
    """
    from reverie.core import bounds, memory
    from reverie.core.errors import InputError, unknown

    if isinstance(config, str):
        if config not in PRESETS:
            raise unknown("network", config, PRESETS)
        preset = PRESETS[config]
        config, classes = preset.config, preset.classes if classes is None else classes
        channels, size = preset.channels if channels is None else channels, preset.size if size is None else size
    if channels is None or size is None:
        raise InputError("a network is built for pictures of some channels and size: give channels= and size=")
    module, name = NETWORKS[type(config)]
    if image:
        if not hasattr(config, "image"):
            able = " or ".join(name for name, kind in CONFIGS.items() if hasattr(kind, "image"))
            raise InputError(f"a prior or a picture to see needs a network that takes one: use {able}, not {name}")
        config = replace(config, image=image)
    network = getattr(importlib.import_module(f"reverie.nets.{module}"), name)
    bounds.check_bounds(config, lambda key: f"net.{key}")
    return memory.built(
        lambda: network(config, channels=channels, size=size, classes=classes),
        "this network",
        "choose a smaller width or depth",
    )


def __getattr__(name: str) -> object:
    if name == "taps":
        return importlib.import_module("reverie.nets.taps")
    for module, network in NETWORKS.values():
        if name == network:
            return getattr(importlib.import_module(f"reverie.nets.{module}"), name)
    raise AttributeError(f"module 'reverie.nets' has no attribute {name!r}")
