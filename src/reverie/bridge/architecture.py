"""Which models of diffusers are networks of ours: their configurations in our terms.

Times are ours: a diffusers timestep is 1000 times our time. :mod:`reverie.bridge.describe` goes the other way.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from reverie.bridge.foreign import Labels
from reverie.core.condition import Label
from reverie.nets.config import DiTConfig, MMDiTConfig, UNetConfig
from reverie.nets.dit import DiT
from reverie.nets.layers import pair
from reverie.nets.mmdit import MMDiT
from reverie.nets.network import Network
from reverie.nets.unet import UNet


def network(kind: str, config: Mapping[str, Any], patch: int = 1, seen: bool = False) -> Network | None:
    """Our network for a diffusers model, with weights still to be loaded.

    Args:
        kind: the class name, "UNet2DModel", "UNet2DConditionModel", "DiTTransformer2DModel" or "SD3Transformer2DModel".
        config: the model's whole configuration, defaults included.
        patch: of a U-Net, the side of the squares that are folded into its channels.
        seen: whether half of a U-Net's channels are those of a picture that it is shown.

    Returns:
        The network, or None where the architecture is not one of ours.
    """
    build = {
        "UNet2DModel": partial(_unet, patch=patch, seen=seen),
        "UNet2DConditionModel": _unet,
        "DiTTransformer2DModel": _dit,
        "SD3Transformer2DModel": _mmdit,
    }.get(kind)
    return None if build is None else build(config)


PLAIN = {
    "act_fn": "silu",
    "center_input_sample": False,
    "mid_block_scale_factor": 1,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "class_embed_type": None,
    "add_attention": True,
    "only_cross_attention": False,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "reverse_transformer_layers_per_block": None,
    "num_attention_heads": None,
    "resnet_skip_time_act": False,
    "resnet_out_scale_factor": 1.0,
    "time_embedding_act_fn": None,
    "timestep_post_act": None,
    "time_cond_proj_dim": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "attention_type": "default",
    "class_embeddings_concat": False,
    "mid_block_only_cross_attention": None,
    "cross_attention_norm": None,
}
"""What a U-Net of theirs must say, where it says anything, to be ours."""

SCALED = {"default": False, "scale_shift": True}
"""How the condition reaches a residual block."""

ATTENTIVE = {"AttnDownBlock2D", "CrossAttnDownBlock2D"}
DOWN_TO_UP = {
    "DownBlock2D": "UpBlock2D",
    "ResnetDownsampleBlock2D": "ResnetUpsampleBlock2D",
    "AttnDownBlock2D": "AttnUpBlock2D",
    "CrossAttnDownBlock2D": "CrossAttnUpBlock2D",
}


def _unet(config: Mapping[str, Any], patch: int = 1, seen: bool = False) -> UNet | None:
    conditional = "cross_attention_dim" in config
    down, widths, blocks = tuple(config["down_block_types"]), config["block_out_channels"], config["layers_per_block"]
    mid = "UNetMidBlock2DCrossAttn" if conditional else "UNetMidBlock2D"
    residual = not conditional and config["downsample_type"] == "resnet"
    usable = {"CrossAttnDownBlock2D"} if conditional else {"AttnDownBlock2D"}
    usable.add("ResnetDownsampleBlock2D" if residual else "DownBlock2D")
    extra, per_level = config.get("addition_embed_type"), config.get("transformer_layers_per_block", 1)
    if (
        any(config.get(name, value) != value for name, value in PLAIN.items())
        or not set(down) <= usable
        or config.get("downsample_type", "conv") not in ("conv", "resnet")
        or config.get("upsample_type", "conv") != config.get("downsample_type", "conv")
        or tuple(config["up_block_types"]) != tuple(DOWN_TO_UP[kind] for kind in reversed(down))
        or config["mid_block_type"] != mid
        or any(width % widths[0] for width in widths)
        or not isinstance(blocks, int)
        or not isinstance(config.get("cross_attention_dim", 0), int)
        or extra not in (None, "text_time")
        or config["freq_shift"] not in (0, 1)
        or config["downsample_padding"] not in (0, 1)
        or config["resnet_time_scale_shift"] not in SCALED
        or not (conditional or _normalised(config))
    ):
        return None
    heads = config["attention_head_dim"]
    if conditional:  # here the number is that of the heads
        each = [heads] * len(widths) if isinstance(heads, int) else list(heads)
        sizes = {width // n for width, n in zip(widths, each, strict=True)}
        if len(set(each)) > 1 and len(sizes) > 1:
            return None
        count, size = (each[0], 0) if len(set(each)) == 1 else (1, sizes.pop())
    else:
        count, size = (1, 0) if heads is None else (1, heads)
    levels = len(widths)
    whole, out = config["in_channels"] // patch**2, config["out_channels"] // patch**2
    channels = whole // 2 if seen else min(whole, out)
    if out not in (channels, 2 * channels):
        return None
    options = UNetConfig(
        patch=patch,
        image=whole - channels,
        width=widths[0],
        multipliers=tuple(width // widths[0] for width in widths),
        blocks=blocks,
        attention=tuple(2**level for level, kind in enumerate(down) if kind in ATTENTIVE),
        heads=count,
        head_width=size,
        resample="residual" if residual else "conv",
        scale_shift_norm=SCALED[config["resnet_time_scale_shift"]],
        dropout=config["dropout"],
        context=config.get("cross_attention_dim", 0),
        transformer_depth=(per_level,) * levels if isinstance(per_level, int) else tuple(per_level),
        vector=config["projection_class_embeddings_input_dim"] if extra else 0,
        learn_sigma=out == 2 * channels,
        endpoint=config["freq_shift"] == 1,
        asymmetric_padding=config["downsample_padding"] == 0,
        groups=config["norm_num_groups"],
        eps=config["norm_eps"],
    )
    height, width = pair(config["sample_size"] or 2 ** (levels + 2))
    net = UNet(options, channels=channels, size=(patch * height, patch * width))
    if config["num_class_embeds"] is not None:
        net.conditions["label"] = Label(config["num_class_embeds"])
        net.conditioning.label = Labels(config["num_class_embeds"], 4 * widths[0])  # pyright: ignore[reportAttributeAccessIssue]
    return net


def _normalised(config: Mapping[str, Any]) -> bool:
    """Whether the attention in the middle is normalised like all others, which depends on three settings."""
    groups, usual = config.get("attn_norm_num_groups"), config["norm_num_groups"]
    return groups == usual or (groups is None and config["resnet_time_scale_shift"] == "default")


def _dit(config: Mapping[str, Any]) -> DiT | None:
    channels, out = config["in_channels"], config["out_channels"] or config["in_channels"]
    plain = {"norm_type": "ada_norm_zero", "activation_fn": "gelu-approximate", "attention_bias": True, "dropout": 0.0}
    if (
        any(config.get(name, value) != value for name, value in plain.items())
        or config["norm_elementwise_affine"]
        or config["sample_size"] % config["patch_size"]
        or out not in (channels, 2 * channels)
    ):
        return None
    options = DiTConfig(
        patch=config["patch_size"],
        width=config["num_attention_heads"] * config["attention_head_dim"],
        depth=config["num_layers"],
        heads=config["num_attention_heads"],
        learn_sigma=out == 2 * channels,
        endpoint=True,
        mlp_eps=config["norm_eps"],
    )
    return DiT(options, channels=channels, size=config["sample_size"], classes=config["num_embeds_ada_norm"])


def _mmdit(config: Mapping[str, Any]) -> MMDiT | None:
    width = config["num_attention_heads"] * config["attention_head_dim"]
    if (
        config["dual_attention_layers"]
        or config["qk_norm"] not in (None, "rms_norm")
        or config["caption_projection_dim"] != width
        or config["out_channels"] not in (None, config["in_channels"])
    ):
        return None
    options = MMDiTConfig(
        patch=config["patch_size"],
        width=width,
        depth=config["num_layers"],
        heads=config["num_attention_heads"],
        context=config["joint_attention_dim"],
        length=333,
        vector=config["pooled_projection_dim"],
        qk_norm=config["qk_norm"] is not None,
        pos_embed_max_size=config["pos_embed_max_size"],
    )
    return MMDiT(options, channels=config["in_channels"], size=config["sample_size"])
