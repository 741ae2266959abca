"""Low-rank adapters (Hu et al., "LoRA", ICLR 2022) merged: ``W + scale·(α/r)·B·A``.

The product is added to the weights under diffusers' names, so a file serves our networks and wrapped ones alike, though ours keep q, k
and v in one tensor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from reverie.bridge import weights
from reverie.bridge.adapters import Adapter, read_adapters
from reverie.bridge.foreign import Foreign
from reverie.bridge.loading import Pretrained
from reverie.bridge.text import Texts
from reverie.core.errors import InputError, nearest

Model = TypeVar("Model", bound=Pretrained)


def merge(model: Model, path: str | Path, scale: float = 1.0) -> Model:
    """Add an adapter to a model's weights, in place; with the negative scale it comes off again, to rounding.

    Args:
        model: from :func:`reverie.load` of a folder in diffusers' format.
        path: a safetensors file, or the folder of one.
        scale: strength.

    Returns:
        The model.

    Raises:
        InputError: for a file in no known format, a kind of adapter that is no plain product, one of another model, or numbers that are not
            finite; RunError: for a damaged file. The model stays as it was.
    """
    if not math.isfinite(scale):
        raise InputError(f"the strength of an adapter is a finite number: got {scale}")
    path = Path(path).expanduser()
    adapters = read_adapters(path)
    own = "transformer" if "Transformer" in model.model[0] else "unet"
    encoders = {encoder.names[1]: encoder for encoder in _encoders(model)}
    for part, _ in adapters:
        if part and part != own and part not in encoders:
            raise InputError(f"{path} adapts the {part}, the model has: {', '.join((own, *encoders))}")
    state = _weights(model)
    loose = [module for part, module in adapters if not part]
    home = own if all(f"{module}.weight" in state for module in loose) else _home(loose, encoders, path) or own
    parts: dict[str, dict[str, Adapter]] = {}
    for (part, module), adapter in adapters.items():
        parts.setdefault(part or home, {})[module] = adapter
    if own in parts:
        parts[own] = {_dotted(module, state): adapter for module, adapter in parts[own].items()}
    loaded: list[tuple[torch.nn.Module, Mapping[str, Tensor]]] = []
    for part, mine in parts.items():
        if part == own:
            loaded.append((model.net, _ours(model, _added(state, mine, scale))))
        else:
            encoder = encoders[part].model
            weights = encoder.state_dict()
            loaded.append((encoder, _added(weights, {_known(m, weights): a for m, a in mine.items()}, scale)))
    for module, values in loaded:
        module.load_state_dict(dict(values))
    return model


def _home(modules: list[str], encoders: Mapping[str, Any], path: Path) -> str | None:
    """The text encoder that has all modules of a file whose names do not tell the part."""
    states = {name: encoder.model.state_dict() for name, encoder in encoders.items()}
    found = [name for name, state in states.items() if all(f"{_known(m, state)}.weight" in state for m in modules)]
    if len(found) > 1:
        raise InputError(f"{path} adapts one of {', '.join(found)} and does not say which: put it before the names")
    return found[0] if found else None


def _weights(model: Pretrained) -> dict[str, Tensor]:
    """The weights under diffusers' names."""
    net = model.net
    return dict(net.foreign.state_dict()) if isinstance(net, Foreign) else weights.to_theirs(net, model.model[1])  # pyright: ignore[reportArgumentType]


def _ours(model: Pretrained, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    net = model.net
    if isinstance(net, Foreign):
        return {f"foreign.{name}": value for name, value in state.items()}
    return weights.to_ours(net, model.model[1], state)  # pyright: ignore[reportArgumentType]


def _encoders(model: Pretrained) -> list[Any]:
    return model.conditioner.text.encoders if isinstance(model.conditioner.text, Texts) else []


def _known(module: str, state: Mapping[str, Tensor]) -> str:
    """The module's name in this version of transformers: with or without the outermost model."""
    for name in (module, module.removeprefix("text_model."), f"text_model.{module}"):
        for known in (name, _dotted(name, state)):
            if f"{known}.weight" in state:
                return known
    return module


def _dotted(module: str, state: Mapping[str, Tensor]) -> str:
    """The module that kohya's name means, which has lines where its own has points; another as it is."""
    if f"{module}.weight" in state or "." in module:
        return module
    names = (name.removesuffix(".weight") for name in state if name.endswith(".weight"))
    return next((name for name in names if name.replace(".", "_") == module), module)


def _added(state: Mapping[str, Tensor], adapters: Mapping[str, Adapter], scale: float) -> dict[str, Tensor]:
    result = dict(state)
    for module, adapter in adapters.items():
        name = f"{module}.weight"
        if name not in state:
            raise InputError(
                f"the adapter changes {name}, which the model does not have: it is of another model.{nearest(name, state)}"
            )
        result[name] = state[name] + adapter.delta(name, state[name], scale).to(state[name])
        if not result[name].isfinite().all():
            raise InputError(
                f"the adapter makes {name} infinite or NaN: its matrices or its α hold such numbers, or it is too strong"
            )
    return result
