"""The weights of our networks and of the models of diffusers with the same architecture, both ways.

The maps are lists of :class:`Part`: which of our tensors is made of which of theirs, and how.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reverie.core.errors import RunError
from reverie.nets.attention import Attention, JointAttention
from reverie.nets.dit import DiT
from reverie.nets.layers import FeedForward
from reverie.nets.mmdit import MMDiT
from reverie.nets.network import Network
from reverie.nets.spatial import SpatialTransformer
from reverie.nets.textless import Textless
from reverie.nets.unet import ResidualBlock, Stage, UNet


@dataclass(frozen=True)
class Part:
    """One of our tensors and what it is of theirs.

    Attributes:
        ours: its name.
        theirs: the name of theirs, or several.
        form: "same"; "joined", theirs one after the other; "tied", theirs are all equal; "swapped" and "waves", the halves change places
            in the rows or in the columns; "pointwise", ours is a linear layer and theirs a 1x1 convolution; "grid", ours has rows and
            columns of positions and theirs one list.
    """

    ours: str
    theirs: tuple[str, ...]
    form: str = "same"


def to_ours(net: Network, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their weights under our names, for ``net`` made by :func:`~reverie.bridge.architecture.network` from ``config``.

    Raises:
        RunError: when a tensor is missing, left over or of another shape, with its name.
    """
    return gathered(net, parts(net, config), state)


def gathered(net: nn.Module, parts: Iterable[Part], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their weights under the names of ``net``, which is made of the given parts; errors as of :func:`to_ours`."""
    shapes, left, result = {name: value.shape for name, value in net.state_dict().items()}, set(state), {}
    for part in parts:
        missing = [name for name in part.theirs if name not in state]
        if missing:
            raise RunError(f"the weights lack {missing[0]!r}: the file is incomplete or belongs to another model")
        value = _ours(part, [state[name] for name in part.theirs])
        if value.shape != shapes[part.ours]:
            raise RunError(
                f"{part.theirs[0]!r} has shape {tuple(state[part.theirs[0]].shape)}, which does not fit the configuration"
            )
        result[part.ours] = value
        left -= set(part.theirs)
    if left:
        raise RunError(f"the weights hold {sorted(left)[0]!r}, which the configuration does not name")
    return result


def to_theirs(net: Network, config: Mapping[str, Any], state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The weights of ``net``, or ``state`` in place of them, under their names, for a model of ``config`` (see :func:`describe`)."""
    return scattered(parts(net, config), net.state_dict() if state is None else state)


def scattered(parts: Iterable[Part], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our weights under their names, as far as the given parts go."""
    result: dict[str, Tensor] = {}
    for part in parts:
        result |= dict(zip(part.theirs, _theirs(part, state[part.ours]), strict=True))
    return result


def _ours(part: Part, values: list[Tensor]) -> Tensor:
    value = values[0]
    match part.form:
        case "joined":
            return torch.cat(values)
        case "swapped":
            return torch.cat(value.chunk(2)[::-1])
        case "waves":
            return torch.cat(value.chunk(2, dim=1)[::-1], dim=1)
        case "pointwise":
            return value.flatten(1)
        case "grid":
            side = round(value.shape[1] ** 0.5)
            return value[0].unflatten(0, (side, side))
        case "tied":
            other = next((name for name, v in zip(part.theirs, values, strict=True) if not torch.equal(v, value)), None)
            if other:
                raise RunError(
                    f"{other!r} differs from {part.theirs[0]!r}: the blocks embed time and class each in its own way"
                )
    return value


def _theirs(part: Part, value: Tensor) -> list[Tensor]:
    match part.form:
        case "joined":
            return list(value.chunk(len(part.theirs)))
        case "tied":
            return [value] * len(part.theirs)
        case "swapped" | "waves":
            return [_ours(part, [value])]
        case "pointwise":
            return [value[:, :, None, None]]
        case "grid":
            return [value.flatten(0, 1)[None]]
    return [value]


# --- the maps ---------------------------------------------------------------------------------------------------------


def parts(net: Network, config: Mapping[str, Any]) -> Iterator[Part]:
    """All the tensors of ``net``, and which of theirs they are made of."""
    if isinstance(net, UNet):
        yield from _unet_parts(net, config)
    elif isinstance(net, DiT):
        yield from _dit_parts(net)
    elif isinstance(net, MMDiT):
        yield from _mmdit_parts(net)
    else:
        raise RunError(f"diffusers has no model like {type(net).__name__}")


def _layer(ours: str, *theirs: str, form: str = "same", bias: bool = True) -> Iterator[Part]:
    """A weight and its bias. Only the weight has columns."""
    yield Part(f"{ours}.weight", tuple(f"{name}.weight" for name in theirs), form)
    if bias:
        kept = "same" if form in ("waves", "pointwise") else form
        yield Part(f"{ours}.bias", tuple(f"{name}.bias" for name in theirs), kept)


def _time(ours: str, theirs: str, flipped: bool = True) -> Iterator[Part]:
    yield from _layer(f"{ours}.inner", f"{theirs}.linear_1", form="same" if flipped else "waves")
    yield from _layer(f"{ours}.outer", f"{theirs}.linear_2")


def _attention(ours: str, theirs: str, module: Attention) -> Iterator[Part]:
    bias = (module.q if module.cross else module.qkv).bias is not None
    if module.cross:
        yield from _layer(f"{ours}.q", f"{theirs}.to_q", bias=bias)
        yield from _layer(f"{ours}.kv", f"{theirs}.to_k", f"{theirs}.to_v", form="joined", bias=bias)
    else:
        yield from _layer(f"{ours}.qkv", *(f"{theirs}.to_{n}" for n in "qkv"), form="joined", bias=bias)
    yield from _layer(f"{ours}.out", f"{theirs}.to_out.0")


def _feed_forward(ours: str, theirs: str, module: FeedForward) -> Iterator[Part]:
    yield from _layer(f"{ours}.inner", f"{theirs}.net.0.proj", form="swapped" if module.gated else "same")
    yield from _layer(f"{ours}.outer", f"{theirs}.net.2")


def _residual(ours: str, theirs: str, module: ResidualBlock) -> Iterator[Part]:
    names = {
        "norm_in": "norm1",
        "conv_in": "conv1",
        "modulation": "time_emb_proj",
        "norm_out": "norm2",
        "conv_out": "conv2",
    }
    for mine, other in names.items():
        yield from _layer(f"{ours}.{mine}", f"{theirs}.{other}")
    if isinstance(module.shortcut, nn.Conv2d):
        yield from _layer(f"{ours}.shortcut", f"{theirs}.conv_shortcut")


def _spatial(ours: str, theirs: str, module: nn.Module, form: str) -> Iterator[Part]:
    if isinstance(module, Attention):
        yield from _layer(f"{ours}.norm", f"{theirs}.group_norm")
        yield from _attention(ours, theirs, module)
        return
    assert isinstance(module, SpatialTransformer)
    yield from _layer(f"{ours}.norm", f"{theirs}.norm")
    yield from _layer(f"{ours}.enter", f"{theirs}.proj_in", form=form)
    yield from _layer(f"{ours}.leave", f"{theirs}.proj_out", form=form)
    for i, block in enumerate(module.blocks):
        mine, other = f"{ours}.blocks.{i}", f"{theirs}.transformer_blocks.{i}"
        for name, number in (("attention", 1), ("cross", 2)):
            yield from _layer(f"{mine}.norm_{name}", f"{other}.norm{number}")
            yield from _attention(f"{mine}.{name}", f"{other}.attn{number}", block.get_submodule(name))  # pyright: ignore[reportArgumentType]
        yield from _layer(f"{mine}.norm_mlp", f"{other}.norm3")
        yield from _feed_forward(f"{mine}.mlp", f"{other}.ff", block.get_submodule("mlp"))  # pyright: ignore[reportArgumentType]


def _unet_parts(net: UNet, config: Mapping[str, Any]) -> Iterator[Part]:
    form = "same" if config.get("use_linear_projection", False) else "pointwise"
    yield from _time("conditioning.time", "time_embedding", config["flip_sin_to_cos"])
    if net.conditioning.label is not None:
        yield Part("conditioning.label.table.weight", ("class_embedding.weight",))
    if net.conditioning.vector is not None:
        yield from _layer("conditioning.vector.0", "add_embedding.linear_1")
        yield from _layer("conditioning.vector.2", "add_embedding.linear_2")
    yield from _layer("embed", "conv_in")
    yield from _layer("norm", "conv_norm_out")
    yield from _layer("out", "conv_out")
    places = [("middle", "mid_block", net.middle)]
    for direction in ("down", "up"):
        lists = getattr(net, direction)
        places += [(f"{direction}.{i}", f"{direction}_blocks.{i}", stages) for i, stages in enumerate(lists)]
    for ours, theirs, stages in places:
        residuals = attentions = 0
        for i, block in enumerate(stages):
            if not isinstance(block, Stage):
                # before the level's stages in ours on the way down, behind the last one's in theirs
                direction, level = ours.split(".")
                at = f"{direction}_blocks.{int(level) - (direction == 'down')}.{direction}samplers.0"
                if isinstance(block, ResidualBlock):
                    yield from _residual(f"{ours}.{i}", at, block)
                else:
                    yield from _layer(f"{ours}.{i}.conv", f"{at}.conv")
                continue
            yield from _residual(f"{ours}.{i}.residual", f"{theirs}.resnets.{residuals}", block.residual)
            residuals += 1
            if block.attention is not None:
                at = f"{theirs}.attentions.{attentions}"
                yield from _spatial(f"{ours}.{i}.attention", at, block.attention, form)
                attentions += 1


def _dit_parts(net: DiT) -> Iterator[Part]:
    def every(name: str) -> tuple[str, ...]:
        return tuple(f"transformer_blocks.{i}.norm1.emb.{name}" for i in range(len(net.blocks)))

    for mine, other in (("inner", "linear_1"), ("outer", "linear_2")):
        yield from _layer(f"conditioning.time.{mine}", *every(f"timestep_embedder.{other}"), form="tied")
    yield Part("conditioning.label.table.weight", every("class_embedder.embedding_table.weight"), "tied")
    yield from _layer("embed", "pos_embed.proj")
    yield from _modulated(net.blocks, "attn1")
    yield from _layer("modulation", "proj_out_1")
    yield from _layer("out", "proj_out_2")


def _modulated(blocks: Iterable[nn.Module], attention: str) -> Iterator[Part]:
    for i, block in enumerate(blocks):
        ours, theirs = f"blocks.{i}", f"transformer_blocks.{i}"
        yield from _layer(f"{ours}.modulation", f"{theirs}.norm1.linear")
        yield from _attention(f"{ours}.attention", f"{theirs}.{attention}", block.get_submodule("attention"))  # pyright: ignore[reportArgumentType]
        yield from _feed_forward(f"{ours}.mlp", f"{theirs}.ff", block.get_submodule("mlp"))  # pyright: ignore[reportArgumentType]


def textless_parts(net: Textless) -> Iterator[Part]:
    """What a ControlNet without a text has of the network that it steers."""
    yield from _pooled()
    yield from _modulated(net.blocks, "attn")


def _pooled() -> Iterator[Part]:
    yield from _time("conditioning.time", "time_text_embed.timestep_embedder")
    yield from _layer("conditioning.vector.0", "time_text_embed.text_embedder.linear_1")
    yield from _layer("conditioning.vector.2", "time_text_embed.text_embedder.linear_2")


def _mmdit_parts(net: MMDiT) -> Iterator[Part]:
    yield from _pooled()
    yield from _layer("embed", "pos_embed.proj")
    yield Part("positions", ("pos_embed.pos_embed",), "grid")
    yield from _layer("text", "context_embedder")
    for i, block in enumerate(net.blocks):
        ours, theirs = f"blocks.{i}", f"transformer_blocks.{i}"
        joint: JointAttention = block.get_submodule("attention")  # pyright: ignore[reportAssignmentType]
        last = joint.out_context is None
        yield from _layer(f"{ours}.picture.modulation", f"{theirs}.norm1.linear")
        yield from _layer(
            f"{ours}.text.modulation", f"{theirs}.norm1_context.linear", form="swapped" if last else "same"
        )
        yield from _layer(f"{ours}.attention.qkv", *(f"{theirs}.attn.to_{n}" for n in "qkv"), form="joined")
        yield from _layer(
            f"{ours}.attention.qkv_context", *(f"{theirs}.attn.add_{n}_proj" for n in "qkv"), form="joined"
        )
        yield from _layer(f"{ours}.attention.out", f"{theirs}.attn.to_out.0")
        if isinstance(joint.norm_q, nn.RMSNorm):
            for n in "qk":
                yield Part(f"{ours}.attention.norm_{n}.weight", (f"{theirs}.attn.norm_{n}.weight",))
                yield Part(f"{ours}.attention.norm_{n}_context.weight", (f"{theirs}.attn.norm_added_{n}.weight",))
        mlp: FeedForward = block.get_submodule("picture.mlp")  # pyright: ignore[reportAssignmentType]
        yield from _feed_forward(f"{ours}.picture.mlp", f"{theirs}.ff", mlp)
        if not last:
            yield from _layer(f"{ours}.attention.out_context", f"{theirs}.attn.to_add_out")
            yield from _feed_forward(f"{ours}.text.mlp", f"{theirs}.ff_context", mlp)
    yield from _layer("modulation", "norm_out.linear", form="swapped")
    yield from _layer("out", "proj_out")
