"""A network of ours in the terms of diffusers."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from reverie.bridge import architecture, weights
from reverie.core.errors import InputError
from reverie.nets.config import DiTConfig, MMDiTConfig, UNetConfig
from reverie.nets.dit import DiT
from reverie.nets.mmdit import MMDiT
from reverie.nets.network import Network
from reverie.nets.unet import UNet

PLAIN = UNetConfig()
SAME = (
    "patch", "resample", "rescale", "attend_last", "project", "filter", "pyramid", "context", "vector", "image", "variance", "time_scale",
    "fourier", "frequencies",
)  # fmt: skip
"""What must be as the configuration's default."""


def describe(net: Network) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    """The class of diffusers' model like ``net``, its configuration, and the weights under its names.

    Where a U-Net has labels, the null is one more class, the last.

    Raises:
        InputError: when diffusers has no such model, with the setting that it lacks.
    """
    match net, net.config:
        case UNet(), UNetConfig() as config:
            return _unet(net, config)
        case DiT(), DiTConfig() as config:
            return _dit(net, config)
        case MMDiT(), MMDiTConfig() as config:
            return _mmdit(net, config)
    raise InputError(f"diffusers has no network like this {type(net).__name__}: U-Nets, DiT and MM-DiT are written")


def _lacking(net: Network, reason: str) -> InputError:
    return InputError(f"diffusers has no network like this {type(net).__name__}: {reason}")


def _transformer(net: DiT | MMDiT, heads: int) -> dict[str, Any]:
    """What both transformers say alike."""
    if net.size[0] != net.size[1]:
        raise _lacking(net, f"pictures of {net.size[0]}x{net.size[1]} are not square")
    width = net.embed.out_channels
    return {
        "sample_size": net.size[0],
        "patch_size": net.patch,
        "in_channels": net.channels,
        "num_layers": len(net.blocks),
        "num_attention_heads": heads,
        "attention_head_dim": width // heads,
    }


def _dit(net: DiT, config: DiTConfig) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    table = net.conditioning.label
    for name, value in (("activation", "gelu"), ("local", False), ("vector", 0), ("image", 0), ("endpoint", True)):
        if getattr(config, name) != value:
            raise _lacking(net, f"{name} is {getattr(config, name)!r}, not {value!r}")
    if table is None:
        raise _lacking(net, "it has no classes")
    theirs = _transformer(net, config.heads) | {
        "out_channels": net.channels * (2 if config.variance else 1),
        "num_embeds_ada_norm": table.null,
        "norm_eps": 1e-6,
    }
    return "DiTTransformer2DModel", theirs, weights.to_theirs(net, theirs)


def _mmdit(net: MMDiT, config: MMDiTConfig) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    if not config.vector:
        raise _lacking(net, "it has no vector, the pooled text")
    theirs = _transformer(net, config.heads) | {
        "out_channels": net.channels,
        "joint_attention_dim": config.context,
        "caption_projection_dim": config.width,
        "pooled_projection_dim": config.vector,
        "pos_embed_max_size": config.reach,
        "qk_norm": "rms_norm" if config.norm else None,
    }
    return "SD3Transformer2DModel", theirs, weights.to_theirs(net, theirs)


def _unet(net: UNet, config: UNetConfig) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    for name in SAME:
        if getattr(config, name) != getattr(PLAIN, name):
            raise _lacking(net, f"{name} is {getattr(config, name)!r}, not {getattr(PLAIN, name)!r}")
    widths = [config.width * multiplier for multiplier in config.multipliers]
    attends = [2**level in config.attention for level in range(len(widths))]
    sizes = {config.head_width or width // config.heads for width, here in zip(widths, attends, strict=True) if here}
    sizes.add(config.head_width or widths[-1] // config.heads)
    groups = {module.num_groups for module in net.modules() if isinstance(module, nn.GroupNorm)}
    if len(sizes) > 1 or len(groups) > 1:
        what, each = ("heads have features", sizes) if len(sizes) > 1 else ("normalisations have groups", groups)
        raise _lacking(net, f"its {what} of different numbers, {sorted(each)}")
    down = ["AttnDownBlock2D" if here else "DownBlock2D" for here in attends]
    count = groups.pop()
    table = None if net.conditioning.label is None else net.conditioning.label.table.weight
    theirs: dict[str, Any] = {
        "sample_size": net.size[0] if net.size[0] == net.size[1] else list(net.size),
        "in_channels": net.channels,
        "out_channels": net.channels,
        "block_out_channels": widths,
        "layers_per_block": config.blocks,
        "down_block_types": down,
        "mid_block_type": "UNetMidBlock2D",
        "up_block_types": [architecture.DOWN_TO_UP[kind] for kind in reversed(down)],
        "attention_head_dim": sizes.pop(),
        "norm_num_groups": count,
        "attn_norm_num_groups": count,
        "norm_eps": config.eps,
        "dropout": config.dropout,
        "resnet_time_scale_shift": "scale_shift" if config.scaled else "default",
        "downsample_padding": 0 if config.corner else 1,
        "flip_sin_to_cos": True,
        "freq_shift": int(config.endpoint),
        "num_class_embeds": None if table is None else len(table),
    }
    return "UNet2DModel", theirs, weights.to_theirs(net, theirs)
