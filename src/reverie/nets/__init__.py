"""Networks: ``net(x, time, cond)`` maps noisy pictures ``(B, C, H, W)`` to the same shape.

``time`` is a float tensor () or (B,) of order 1, ``cond`` a ``Cond`` or None; ``net.conditions`` says what a network
understands.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from reverie.nets.config import CONFIGS, DiTConfig, NetConfig, UNetConfig

if TYPE_CHECKING:
    from reverie.nets.dit import DiT
    from reverie.nets.unet import UNet

__all__ = ["CONFIGS", "DiT", "DiTConfig", "NetConfig", "UNet", "UNetConfig", "build"]


def build(config: NetConfig, *, channels: int, size: int | tuple[int, int], classes: int | None = None) -> DiT | UNet:
    """The network that a configuration describes, for pictures of ``channels`` x ``size`` and that many classes.

    Raises:
        InputError: if the network cannot take that size.
    """
    from reverie.nets.dit import DiT
    from reverie.nets.unet import UNet

    network = {DiTConfig: DiT, UNetConfig: UNet}[type(config)]
    return network(channels=channels, size=size, classes=classes, **asdict(config))


def __getattr__(name: str) -> object:
    if name == "DiT":
        from reverie.nets.dit import DiT

        return DiT
    if name == "UNet":
        from reverie.nets.unet import UNet

        return UNet
    raise AttributeError(f"module 'reverie.nets' has no attribute {name!r}")
