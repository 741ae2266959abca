"""What models and pictures say of themselves: one line in ``repr``, and pictures within a page."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from io import BytesIO
from typing import TYPE_CHECKING, Any

from reverie.core.condition import Cond

if TYPE_CHECKING:
    from PIL import Image
    from torch import nn


def network(net: nn.Module) -> str:
    """Its class and how many parameters it has: ``UNet 0.32 M``."""
    net = getattr(net, "_orig_mod", net)
    return f"{type(net).__name__} {parameters(net) / 1e6:.2f} M"


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def conditions(takes: Mapping[str, Any]) -> str:
    """What a model may be told: ``label: 10 classes``; without any, ``no conditions``."""
    return ", ".join(f"{name}: {spec}" for name, spec in takes.items()) or "no conditions"


def settings(thing: object, without: tuple[str, ...] = ()) -> list[str]:
    """The numbers, words and conditions that an object holds, as ``name=value``."""
    plain = (bool, int, float, str, tuple, Cond)
    held = {name: value for name, value in vars(thing).items() if name not in without and not name.startswith("_")}
    return [
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value!r}"
        for name, value in held.items()
        if isinstance(value, plain)
    ]


def html(picture: Image.Image, height: int | None = None) -> str:
    """The picture within a page, its pixels left sharp."""
    content = BytesIO()
    picture.save(content, "PNG")
    size = "" if height is None else f"height:{height}px;"
    source = b64encode(content.getvalue()).decode()
    return f'<img style="{size}image-rendering:pixelated" src="data:image/png;base64,{source}">'
