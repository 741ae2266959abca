"""Diffusers' ControlNetModel and SD3ControlNetModel and our ControlNet, both ways: the same copy of a network's first half under other
names."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from reverie.bridge import architecture, weights
from reverie.bridge.architecture import DOWN_TO_UP
from reverie.bridge.building import CONTROLNETS, check_weights, complete, following, precision
from reverie.bridge.folder import Component
from reverie.bridge.weights import Part
from reverie.core.errors import InputError
from reverie.nets.controlnet import PICTURE, ControlNet, Hinted
from reverie.nets.mmdit import MMDiT
from reverie.nets.textless import Textless
from reverie.nets.unet import UNet

UNET, SD3 = CONTROLNETS
PLAIN = {
    "controlnet_conditioning_channel_order": "rgb",
    "global_pool_conditions": False,
}
"""What a ControlNet of theirs must say, where it says anything, to be ours."""
COPIED, TEXTLESS = {"use_pos_embed": True, "pos_embed_type": "sincos"}, {"use_pos_embed": False}
"""What those of an MM-DiT say besides: that read a text, and that do not."""
SEVERAL = "MultiControlNetModel"
"""The class of several ControlNets of a pipeline, all of a U-Net: diffusers saves no others together."""


def read(component: Component) -> ControlNet | Textless:
    """The ControlNet of a folder, frozen and in evaluation mode. What it was trained on is not known, so any network of its shape serves.

    Raises:
        InputError: for settings without translation, weights that are pickled or of another model.
        RunError: when a file is damaged.
    """
    config = complete(component)
    borrowed = "pos_embed." if config.get("use_pos_embed") is False else None  # a pipeline's own, saved with it
    check_weights(component, config, borrowed)
    state = {
        name: value for name, value in component.tensors().items() if borrowed is None or not name.startswith(borrowed)
    }
    with following(str(component.folder)):
        whole = _steered(component.kind, config)
        base = architecture.network(UNET if component.kind == CONTROLNETS[UNET] else SD3, whole)
        plain, textless = PLAIN, isinstance(base, MMDiT) and config["joint_attention_dim"] is None
        if isinstance(base, MMDiT):
            plain = TEXTLESS if textless else COPIED
        if not isinstance(base, UNet | MMDiT) or any(config.get(key, value) != value for key, value in plain.items()):
            raise InputError(
                f"the ControlNet in {component.folder} has settings without translation: it steers no U-Net or MM-DiT of ours"
            )
        if isinstance(base, MMDiT):
            extra = config["extra_conditioning_channels"]
            pictures = PICTURE if extra else min(PICTURE, base.channels)
            kind = Textless if textless else ControlNet
            net = kind(base, pictures + extra, depth=config["num_layers"])
            net.bare = config["force_zeros_for_pooled_projection"]
        else:
            widths = tuple(config["conditioning_embedding_out_channels"])
            size = (base.size[0] << len(widths) - 1, base.size[1] << len(widths) - 1)
            net = ControlNet(base, config["conditioning_channels"], size, widths)
        net.base = None
        net.to(dtype=precision(state)).load_state_dict(weights.gathered(net, _parts(net, whole), state))
    return net.eval().requires_grad_(False)


def described(net: Hinted, kind: str, model: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration and the weights of diffusers' ControlNet like ``net``, which steers a model of theirs by its class and
    configuration.

    Raises:
        InputError: when they have none.
    """
    steers = MMDiT if isinstance(net, Textless) else type(net.copy) if isinstance(net, ControlNet) else type(net)
    if (kind, steers) not in ((UNET, UNet), (SD3, MMDiT)) or not isinstance(net, ControlNet | Textless):
        raise InputError(
            f"diffusers' {' and '.join(CONTROLNETS.values())} steer a {UNET} that opens as a U-Net of ours and a {SD3} that opens as an "
            f"MM-DiT: got {kind} and a ControlNet of a {steers.__name__}"
        )
    own = CONTROLNETS[kind]
    config = {key: model[key] for key in _defaults(own) if key in model} | {"_class_name": own}
    if steers is MMDiT:
        config |= {
            "num_layers": len(net.sites),
            "extra_conditioning_channels": max(0, net.channels - PICTURE),
            "force_zeros_for_pooled_projection": net.bare,
        }
        if isinstance(net, Textless):
            config |= {"joint_attention_dim": None, "pos_embed_type": None, **TEXTLESS}
    else:
        convolutions = [net.hint.enter, *net.hint.blocks[1::2]]  # pyright: ignore
        config |= {
            "conditioning_channels": net.channels,
            "conditioning_embedding_out_channels": [layer.out_channels for layer in convolutions],  # pyright: ignore
        }
    return config, weights.scattered(_parts(net, model), net.state_dict())


def classed(kind: str, count: int) -> str:
    """The class of the ControlNets of a pipeline, by that of what they steer, and how many they are.

    Raises:
        InputError: for several that diffusers does not save together.
    """
    if count > 1 and kind != UNET:
        raise InputError(
            f"diffusers saves no pipeline with several {CONTROLNETS[kind]}: write each by itself, reverie.bridge.write_controlnet"
        )
    return CONTROLNETS[kind] if count == 1 else SEVERAL


def _steered(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a network that a ControlNet of theirs steers."""
    if kind == CONTROLNETS[SD3]:  # the last block of an MM-DiT is never copied
        own = {key: value for key, value in config.items() if key in _defaults(SD3)}
        if own["joint_attention_dim"] is None:  # what has no text has none of these
            width = config["num_attention_heads"] * config["attention_head_dim"]
            own |= {
                "joint_attention_dim": 1,
                "caption_projection_dim": width,
                "dual_attention_layers": (),
                "num_layers": 1,
                "qk_norm": None,
            }
        else:
            own["num_layers"] += 1
        return {**_defaults(SD3), **own, "out_channels": config["in_channels"]}
    own = {key: value for key, value in config.items() if key in _defaults(UNET)}
    ups = [DOWN_TO_UP[kind] for kind in reversed(config["down_block_types"])]
    return {**_defaults(UNET), **own, "out_channels": config["in_channels"], "up_block_types": ups}


def _defaults(kind: str) -> dict[str, Any]:
    """The settings of a class of diffusers, with their defaults."""
    import diffusers

    parameters = inspect.signature(getattr(diffusers, kind).__init__).parameters
    return {name: parameter.default for name, parameter in parameters.items() if name != "self"}


def _parts(net: ControlNet | Textless, config: Mapping[str, Any]) -> Iterator[Part]:
    """All the tensors of ``net``, which steers a network of ``config``, and which of theirs they are."""
    if isinstance(net, Textless):
        yield from weights.textless_parts(net)
    else:
        copied = net.copy.state_dict()
        every = weights.parts(net.copy, config)
        yield from (replace(part, ours=f"copy.{part.ours}") for part in every if part.ours in copied)
    if isinstance(net, Textless) or isinstance(net.copy, MMDiT):
        names = {"hint": "pos_embed_input.proj"}
        names |= {f"zeros.{i}": f"controlnet_blocks.{i}" for i in range(len(net.zeros))}
    else:
        names = {"hint.enter": "controlnet_cond_embedding.conv_in", "hint.leave": "controlnet_cond_embedding.conv_out"}
        names |= {f"hint.blocks.{i}": f"controlnet_cond_embedding.blocks.{i}" for i in range(len(net.hint.blocks))}  # pyright: ignore
        names |= {f"zeros.{i}": f"controlnet_down_blocks.{i}" for i in range(len(net.zeros) - 1)}
        names[f"zeros.{len(net.zeros) - 1}"] = "controlnet_mid_block"
    for ours, theirs in names.items():
        for tensor in ("weight", "bias"):
            yield Part(f"{ours}.{tensor}", (f"{theirs}.{tensor}",))
