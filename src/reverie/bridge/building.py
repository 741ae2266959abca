"""Models of diffusers built from configurations that others wrote: what they say is checked before anything of its size is made."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

import torch
from torch import Tensor, nn

from reverie.bridge.folder import Component
from reverie.core.errors import InputError, RunError, unknown

NETWORKS = ("UNet2DModel", "UNet2DConditionModel", "DiTTransformer2DModel", "SD3Transformer2DModel")
AUTOENCODER = "AutoencoderKL"
CONTROLNETS = {"UNet2DConditionModel": "ControlNetModel", "SD3Transformer2DModel": "SD3ControlNetModel"}
"""Of the networks that one steers, its class."""
KNOWN = (*NETWORKS, AUTOENCODER, *CONTROLNETS.values())
OPEN = {
    (CONTROLNETS["SD3Transformer2DModel"], "joint_attention_dim"),
    (CONTROLNETS["SD3Transformer2DModel"], "pos_embed_type"),
}
"""Settings that may be left open, whatever their kind says."""
COUNTS = (
    "num_layers", "layers_per_block", "transformer_layers_per_block", "reverse_transformer_layers_per_block", "num_hidden_layers",
    "num_decoder_layers",
)  # fmt: skip
"""Settings that count layers, each of which has a tensor at least."""
SIDE, PLACES = 2**14, 2**18
"""The most pixels a side, and the most tokens, that a configuration may name: beyond what any model has."""


def complete(component: Component) -> dict[str, Any]:
    """A model's configuration with the defaults of what it leaves out.

    Raises:
        InputError: for an unknown class, and for values that are not of the kind of the default.
    """
    import diffusers

    if component.kind not in KNOWN:
        raise unknown(f"model in {component.folder},", component.kind, KNOWN)
    parameters = inspect.signature(getattr(diffusers, component.kind).__init__).parameters
    config: dict[str, Any] = {}
    for name, parameter in parameters.items():
        if name == "self":
            continue
        if name not in component.config and parameter.default is parameter.empty:
            raise InputError(f"{component.folder} does not say {name}, which {component.kind} needs")
        config[name] = component.config.get(name, parameter.default)
        if config[name] is None and (component.kind, name) in OPEN:
            continue
        if name in component.config and not alike(config[name], kind := parameter.annotation):
            raise InputError(
                f"{component.folder} says {name} = {config[name]!r}: expected {kind.__name__ if isinstance(kind, type) else kind}"
            )
    plausible(component)
    return config


def alike(value: Any, kind: Any) -> bool:
    """Whether a value of a configuration is of a kind: a type, a tuple of one, or one of several. A bool may be left open."""
    if isinstance(kind, UnionType):
        return any(alike(value, each) for each in get_args(kind))
    if kind is tuple or get_origin(kind) is tuple:
        return isinstance(value, list | tuple) and all(alike(each, (*get_args(kind), int)[0]) for each in value)
    if value is None:
        return kind in (bool, NoneType)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return type(value) is kind and (kind is not int or value >= 0)


def plausible(component: Component) -> None:
    """Whether a configuration names no more layers than there are weights, and no number that its model cannot take or hold.

    Raises:
        InputError: with the setting.
    """
    config, tensors = component.config, len(component.shapes())
    patch = next((n for n in _numbers(config.get("patch_size")) if n > 0), 1)
    limits = dict.fromkeys(COUNTS, (1, tensors)) | {
        "sample_size": (1, SIDE if "patch_size" not in config else patch * math.isqrt(PLACES)),
        "pos_embed_max_size": (1, math.isqrt(PLACES)),
        "downsample_padding": (0, 1),
        "freq_shift": (0, 1),
    }
    for name, (low, high) in limits.items():
        if any(not low <= number <= high for number in _numbers(config.get(name))):
            reason = f" for the {tensors} tensors of its weights" if name in COUNTS else ""
            raise InputError(f"{component.folder} says {name} = {config[name]!r}: expected {low} to {high}{reason}")


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, list | tuple):
        for each in value:
            yield from _numbers(each)
    elif isinstance(value, int | float):
        yield value


@contextmanager
def following(what: str) -> Iterator[None]:
    """Where a foreign configuration is followed: whatever goes wrong there becomes an InputError about it."""
    try:
        yield
    except (InputError, RunError):
        raise
    except Exception as error:
        raise InputError(
            f"the configuration of {what} cannot be followed: {(str(error) or type(error).__name__).splitlines()[0]}"
        ) from error


def build(kind: str, config: Mapping[str, Any], state: Mapping[str, Tensor], what: str) -> nn.Module:
    """Diffusers' module of a configuration, with the weights ``state`` and in their dtype.

    Raises:
        InputError: when the configuration is of none, or the weights do not fit it; with the first name that does not.
    """
    import diffusers

    with following(what):
        model = getattr(diffusers, kind).from_config(dict(config))
    model.to(dtype=precision(state)).load_state_dict(dict(state))
    return model


def precision(state: Mapping[str, Tensor]) -> torch.dtype:
    """The dtype of weights; of several that of the first."""
    return next((v.dtype for v in state.values() if v.is_floating_point()), torch.float32)


def check_weights(component: Component, config: Mapping[str, Any], but: str | None = None) -> None:
    """Whether the weights of a model, by their headers, are those of its configuration; nothing of their size is made. Those whose names
    begin with ``but`` are not looked at.

    Raises:
        InputError: with the first name that does not fit.
    """
    import diffusers

    with following(str(component.folder)), torch.device("meta"):
        own = getattr(diffusers, component.kind).from_config(dict(config)).state_dict()
    state = renamed(component.shapes())
    for name in sorted({*own, *state}):
        if but is not None and name.startswith(but):
            continue
        here, there = (tuple(s[name].shape) if name in s else None for s in (own, state))
        if here != there:
            raise InputError(
                f"the weights in {component.folder} do not fit its configuration: {name} has shape {there}, "
                f"by the configuration {here}"
            )


OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of old files under the names of today: what attention was made of before diffusers 0.15."""
    result = {}
    for name, value in state.items():
        *path, last, which = name.split(".")
        last = OLD_NAMES[last] if "attentions" in path and last in OLD_NAMES else last
        if last.startswith("to_") and value.ndim == 4 and value.shape[2:] == (1, 1):
            value = value[:, :, 0, 0]
        result[".".join((*path, last, which)) if path else name] = value
    return result
