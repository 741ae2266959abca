"""A network of ours in the terms of diffusers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from reverie.bridge import architecture, weights
from reverie.core.errors import InputError
from reverie.nets.config import DiTConfig, MMDiTConfig, UNetConfig
from reverie.nets.dit import DiT
from reverie.nets.mmdit import MMDiT
from reverie.nets.network import Network
from reverie.nets.unet import UNet

UNET = {
    "skip_scale": 1.0, "attend_last": False, "resample_proj": False, "resample_filter": (1, 1), "pyramid": False,
    "context": 0, "vector": 0, "image": 0, "fourier": None, "frequencies": 1,
}  # fmt: skip
DIT = {"activation": "gelu", "local": False, "vector": 0, "image": 0, "context": 0, "endpoint": True}
"""Settings that diffusers' models do not have, as they must be."""

Description = tuple[str, dict[str, Any], dict[str, Tensor]]


def needs(net: Network) -> list[str]:
    """What would have to be otherwise for diffusers to have a model like ``net``, in words of the command line; nothing if it has.

    Raises:
        InputError: for a kind of network that it has not.
    """
    match net, net.config:
        case UNet(), UNetConfig() as config:
            changed = _otherwise(config, UNET)
            sizes = _head_sizes(config)
            if len(sizes) > 1:
                changed.append(f"--net.head-width {min(sizes)}")
            norms = [module for module in net.modules() if isinstance(module, nn.GroupNorm)]
            if len({norm.num_groups for norm in norms}) > 1:
                changed.append(f"--net.groups {math.gcd(*(norm.num_groups for norm in norms))}")
            return changed
        case DiT(), DiTConfig() as config:
            return _otherwise(config, DIT) + _square(net) + ([] if net.conditioning.label else ["classes"])
        case MMDiT(), MMDiTConfig() as config:
            if not (config.vector and config.context):
                raise InputError(
                    "diffusers' SD3Transformer2DModel is told a text, as tokens and as a vector, and this MMDiT run was trained without: "
                    "train a net unet or dit"
                )
            return _square(net)
    raise InputError(f"diffusers has no network like {type(net).__name__}: train a net unet, dit or mmdit")


def _otherwise(config: Any, wanted: Mapping[str, Any]) -> list[str]:
    return [flag(f"net.{name}", value) for name, value in wanted.items() if getattr(config, name) != value]


def flag(name: str, value: Any) -> str:
    """A setting in words of the command line."""
    *path, last = name.replace("_", "-").split(".")
    if isinstance(value, bool):
        return f"--{'.'.join((*path, last if value else f'no-{last}'))}"
    return f"--{'.'.join((*path, last))} {' '.join(map(str, value)) if isinstance(value, tuple) else value}"


def _square(net: DiT | MMDiT) -> list[str]:
    return [] if net.size[0] == net.size[1] else ["square pictures"]


def _head_sizes(config: UNetConfig) -> set[int]:
    """The features of a head at each level that attends."""
    widths = [config.width * multiplier for multiplier in config.multipliers]
    attending = {width for level, width in enumerate(widths) if 2**level in config.attention} | {widths[-1]}
    return {config.head_width or width // config.heads for width in attending}


def describe(net: Network, state: Mapping[str, Tensor]) -> Description:
    """The class of diffusers' model like ``net``, its configuration, and the weights ``state`` under its names.

    Where a U-Net has labels, the null is one more class, the last. Nothing may be left that ``net`` :func:`needs`.
    """
    match net, net.config:
        case UNet(), UNetConfig() as config:
            kind, theirs = "UNet2DModel", _unet(net, config)
        case DiT(), DiTConfig() as config:
            kind, theirs = "DiTTransformer2DModel", _dit(net, config)
        case MMDiT(), MMDiTConfig() as config:
            kind, theirs = "SD3Transformer2DModel", _mmdit(net, config)
        case _:
            raise AssertionError(net)
    return kind, theirs, weights.to_theirs(net, theirs, state)


def _transformer(net: DiT | MMDiT, heads: int) -> dict[str, Any]:
    """What both transformers say alike."""
    return {
        "sample_size": net.size[0],
        "patch_size": net.patch,
        "in_channels": net.channels,
        "num_layers": len(net.blocks),
        "num_attention_heads": heads,
        "attention_head_dim": net.embed.out_channels // heads,
    }


def _dit(net: DiT, config: DiTConfig) -> dict[str, Any]:
    assert net.conditioning.label is not None
    return _transformer(net, config.heads) | {
        "out_channels": net.channels * (2 if config.learn_sigma else 1),
        "num_embeds_ada_norm": net.conditioning.label.null,
        "norm_eps": config.mlp_eps,
    }


def _mmdit(net: MMDiT, config: MMDiTConfig) -> dict[str, Any]:
    return _transformer(net, config.heads) | {
        "out_channels": net.channels,
        "joint_attention_dim": config.context,
        "caption_projection_dim": config.width,
        "pooled_projection_dim": config.vector,
        "pos_embed_max_size": config.pos_embed_max_size,
        "qk_norm": "rms_norm" if config.qk_norm else None,
    }


def _unet(net: UNet, config: UNetConfig) -> dict[str, Any]:
    residual = config.resample == "residual"
    plain = "ResnetDownsampleBlock2D" if residual else "DownBlock2D"
    attends = [2**level in config.attention for level in range(len(config.multipliers))]
    down = ["AttnDownBlock2D" if here else plain for here in attends]
    groups = next(module.num_groups for module in net.modules() if isinstance(module, nn.GroupNorm))
    table, height, width = net.conditioning.label, *(side // config.patch for side in net.size)
    return {
        "sample_size": height if height == width else [height, width],
        "in_channels": (net.channels + config.image) * config.patch**2,
        "out_channels": net.channels * config.patch**2 * (2 if config.learn_sigma else 1),
        "block_out_channels": [config.width * multiplier for multiplier in config.multipliers],
        "layers_per_block": config.blocks,
        "down_block_types": down,
        "mid_block_type": "UNetMidBlock2D",
        "up_block_types": [architecture.DOWN_TO_UP[kind] for kind in reversed(down)],
        "downsample_type": "resnet" if residual else "conv",
        "upsample_type": "resnet" if residual else "conv",
        "attention_head_dim": next(iter(_head_sizes(config))),
        "norm_num_groups": groups,
        "attn_norm_num_groups": groups,
        "norm_eps": config.eps,
        "dropout": config.dropout,
        "resnet_time_scale_shift": "scale_shift" if config.scale_shift_norm else "default",
        "downsample_padding": 0 if config.asymmetric_padding else 1,
        "flip_sin_to_cos": True,
        "freq_shift": int(config.endpoint),
        "num_class_embeds": None if table is None else len(table.table.weight),
    }
