"""Diffusers' modules as networks of ours, where their architecture is not one of ours: ``net(x, time, cond)``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from reverie.core.condition import Cond, entry_of
from reverie.core.errors import InputError
from reverie.nets.network import Network, conditions, tokens, with_image


class Foreign(Network):
    """A module of diffusers. Its time is 1000 times ours.

    What a U-Net embeds in place of a class (``class_embed_type``) is its condition "vector".

    Args:
        kind: the name of its class in diffusers.
        model: the module.
    """

    def __init__(self, kind: str, model: Any) -> None:
        super().__init__()
        self.kind, self.foreign = kind, model
        config = model.config
        extra = int(config.in_channels) - int(config.out_channels or config.in_channels)
        self.channels = int(config.in_channels) - max(extra, 0)
        self.image = max(extra, 0)
        dim = config.get("cross_attention_dim") or config.get("joint_attention_dim") or 0
        self.context = dim if isinstance(dim, int) else dim[0]
        self.vector = int(
            config.get("projection_class_embeddings_input_dim") or config.get("pooled_projection_dim") or 0
        )
        if kind == "UNet2DConditionModel" and config.get("addition_embed_type") == "text_time":
            model.add_time_proj = nn.Identity()  # the condition "vector" brings the sinusoids of its sizes
        elif kind == "UNet2DConditionModel" and config.get("addition_embed_type") is not None:
            raise InputError(f"a network with addition_embed_type = {config.addition_embed_type!r} has no translation")
        elif kind != "SD3Transformer2DModel":
            self.vector = 0
        self.embedded = config.get("class_embed_type")
        self.classes = None if self.embedded else config.get("num_class_embeds") or config.get("num_embeds_ada_norm")
        if self.embedded and self.vector:
            raise InputError(f"a network with {config.addition_embed_type} and class_embed_type has no translation")
        if self.embedded:
            widths = {"timestep": 1, "identity": 4 * config.block_out_channels[0]}
            self.vector = int(widths.get(self.embedded) or config.projection_class_embeddings_input_dim)
        length = 333 if kind == "SD3Transformer2DModel" else 77
        context = 0 if kind == "DiTTransformer2DModel" else self.context
        self.conditions = conditions(self.classes, self.vector, context, length, self.image)

    def forward(self, x: Tensor, time: Tensor, cond: Cond | None = None) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W), or twice the channels with a learned variance."""
        step = (1000.0 * time).expand(len(x))
        given: dict[str, Any] = {"timestep": step}
        if self.classes:
            null = torch.tensor(self.classes, device=x.device) if self.kind == "DiTTransformer2DModel" else None
            given["class_labels"] = (
                always(cond, "label", len(x)) if null is None else entry_of(cond, "label", null, len(x)).value
            )
        if "text" in self.conditions:
            text = tokens(cond, self.context, x)
            given["encoder_hidden_states"] = text.value
            if text.mask is not None and self.kind == "UNet2DConditionModel":
                given["encoder_attention_mask"] = text.mask
            elif text.mask is not None:
                raise InputError(f"{self.kind} takes texts of one length only: give them without padding")
        if self.embedded:
            value = always(cond, "vector", len(x)).to(x)
            given["class_labels"] = value[:, 0] if self.embedded == "timestep" else value
        elif self.vector:
            vector = entry_of(cond, "vector", x.new_zeros(self.vector), len(x)).value
            if self.kind == "SD3Transformer2DModel":
                given["pooled_projections"] = vector
            else:
                sizes = 6 * int(self.foreign.config.addition_time_embed_dim)
                split = vector.split([self.vector - sizes, sizes], dim=1)
                given["added_cond_kwargs"] = dict(zip(("text_embeds", "time_ids"), split, strict=True))
        return self.foreign(with_image(x, cond, self.image), **given, return_dict=False)[0]


def always(cond: Cond | None, name: str, batch: int) -> Tensor:
    """A condition that a network was given with every sample of its training: it has no null of its own.

    Raises:
        InputError: where it is absent and no null was given in its place.
    """
    entry = None if cond is None or name not in cond else cond[name]
    if entry is None or (entry.null is None and not bool(entry.present.all())):
        raise InputError(
            f"this network was trained with a {name} in every sample: give {name}=, at guidance scale 1. "
            f"Where one of its values stands for none, guide with cond.with_null({name}=that value)"
        )
    value = entry.value if entry.null is None else entry.fill(entry.null[0]).value
    return value.expand(batch, *value.shape[1:])


class Labels(nn.Module):
    """A learned vector a class, and none for a sample without.

    Args:
        classes: how many.
        width: features.
    """

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(classes, width)

    def forward(self, cond: Cond | None, batch: int) -> Tensor:
        """``(batch, width)``."""
        return self.table(always(cond, "label", batch))
