"""Diffusers' ControlNetModel and our ControlNet, both ways: the same copy of a U-Net's first half under other names."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from reverie.bridge import architecture, weights
from reverie.bridge.architecture import DOWN_TO_UP
from reverie.bridge.building import CONTROLNET, check_weights, complete, following, precision
from reverie.bridge.folder import Component
from reverie.bridge.weights import Part
from reverie.core.errors import InputError
from reverie.nets.controlnet import ControlNet
from reverie.nets.unet import UNet

UNET = "UNet2DConditionModel"
PLAIN = {"controlnet_conditioning_channel_order": "rgb", "global_pool_conditions": False}
"""What a ControlNet of theirs must say to be ours."""


def read(component: Component) -> ControlNet:
    """The ControlNet of a folder, frozen and in evaluation mode. What it was trained on is not known, so any network of its shape serves.

    Raises:
        InputError: for settings without translation, weights that are pickled or of another model.
        RunError: when a file is damaged.
    """
    config = complete(component)
    check_weights(component, config)
    state = component.tensors()
    with following(str(component.folder)):
        whole = {**_defaults(UNET), **{key: value for key, value in config.items() if key in _defaults(UNET)}}
        whole |= {
            "out_channels": config["in_channels"],
            "up_block_types": [DOWN_TO_UP[kind] for kind in reversed(config["down_block_types"])],
        }
        unet = architecture.network(UNET, whole)
        if not isinstance(unet, UNet) or any(config[key] != value for key, value in PLAIN.items()):
            raise InputError(
                f"the ControlNet in {component.folder} has settings without translation: it steers no U-Net of ours"
            )
        widths = tuple(config["conditioning_embedding_out_channels"])
        size = (unet.size[0] << len(widths) - 1, unet.size[1] << len(widths) - 1)
        net = ControlNet(unet, config["conditioning_channels"], size, widths)
        net.base = None
        net.to(dtype=precision(state)).load_state_dict(weights.gathered(net, _parts(net, unet, whole), state))
    return net.eval().requires_grad_(False)


def described(
    net: ControlNet, base: nn.Module, kind: str, model: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration and the weights of diffusers' ControlNetModel like ``net``, which steers ``base``, a model of theirs by its class
    and configuration.

    Raises:
        InputError: when they have none.
    """
    if kind != UNET or not isinstance(base, UNet):
        raise InputError(f"diffusers' ControlNetModel steers a {UNET} that opens as a U-Net of ours: got {kind}")
    convolutions = [net.hint.enter, *net.hint.blocks[1::2]]
    config = {key: model[key] for key in _defaults(CONTROLNET) if key in model} | {
        "_class_name": CONTROLNET,
        "conditioning_channels": net.channels,
        "conditioning_embedding_out_channels": [layer.out_channels for layer in convolutions],
    }
    return config, weights.scattered(_parts(net, base, model), net.state_dict())


def _defaults(kind: str) -> dict[str, Any]:
    """The settings of a class of diffusers, with their defaults."""
    import diffusers

    parameters = inspect.signature(getattr(diffusers, kind).__init__).parameters
    return {name: parameter.default for name, parameter in parameters.items() if name != "self"}


def _parts(net: ControlNet, unet: UNet, config: Mapping[str, Any]) -> Iterator[Part]:
    """All the tensors of ``net``, whose copy is of ``unet``, and which of theirs they are."""
    copied = net.copy.state_dict()
    yield from (replace(part, ours=f"copy.{part.ours}") for part in weights.parts(unet, config) if part.ours in copied)
    names = {"hint.enter": "controlnet_cond_embedding.conv_in", "hint.leave": "controlnet_cond_embedding.conv_out"}
    names |= {f"hint.blocks.{i}": f"controlnet_cond_embedding.blocks.{i}" for i in range(len(net.hint.blocks))}
    names |= {f"zeros.{i}": f"controlnet_down_blocks.{i}" for i in range(len(net.zeros) - 1)}
    names[f"zeros.{len(net.zeros) - 1}"] = "controlnet_mid_block"
    for ours, theirs in names.items():
        for tensor in ("weight", "bias"):
            yield Part(f"{ours}.{tensor}", (f"{theirs}.{tensor}",))
