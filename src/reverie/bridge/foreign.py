"""Diffusers' modules as networks of ours, where their architecture is not one of ours: ``net(x, time, cond)``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from reverie.core.condition import Cond, read
from reverie.core.errors import InputError
from reverie.nets.network import Network, conditions, tokens, with_image


class Foreign(Network):
    """A module of diffusers. Its time is 1000 times ours.

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
            model.add_time_proj = torch.nn.Identity()  # the condition "vector" brings the sinusoids of its sizes
        elif kind == "UNet2DConditionModel" and config.get("addition_embed_type") is not None:
            raise InputError(f"a network with addition_embed_type = {config.addition_embed_type!r} has no translation")
        elif kind != "SD3Transformer2DModel":
            self.vector = 0
        self.classes = config.get("num_class_embeds") or config.get("num_embeds_ada_norm")
        length = 333 if kind == "SD3Transformer2DModel" else 77
        context = 0 if kind == "DiTTransformer2DModel" else self.context
        self.conditions = conditions(self.classes, self.vector, context, length, self.image)

    def forward(self, x: Tensor, time: Tensor, cond: Cond | None = None) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W), or twice the channels with a learned variance."""
        step = (1000.0 * time).expand(len(x))
        given: dict[str, Any] = {"timestep": step}
        if self.classes:
            given["class_labels"] = self._labels(cond, x)
        if "text" in self.conditions:
            text = tokens(cond, self.context, x)
            given["encoder_hidden_states"] = text.value
            if text.mask is not None and self.kind == "UNet2DConditionModel":
                given["encoder_attention_mask"] = text.mask
            elif text.mask is not None:
                raise InputError(f"{self.kind} takes texts of one length only: give them without padding")
        if self.vector:
            vector = read(cond, "vector", x.new_zeros(self.vector), len(x)).value
            if self.kind == "SD3Transformer2DModel":
                given["pooled_projections"] = vector
            else:
                sizes = 6 * int(self.foreign.config.addition_time_embed_dim)
                split = vector.split([self.vector - sizes, sizes], dim=1)
                given["added_cond_kwargs"] = dict(zip(("text_embeds", "time_ids"), split, strict=True))
        return self.foreign(with_image(x, cond, self.image), **given, return_dict=False)[0]

    def _labels(self, cond: Cond | None, x: Tensor) -> Tensor:
        null = torch.tensor(self.classes, device=x.device)
        entry = read(cond, "label", null, len(x))
        if self.kind != "DiTTransformer2DModel" and not bool(entry.present.all()):
            raise InputError("this network was trained with a label in every sample: give label=, at guidance scale 1")
        return entry.value


def foreign(kind: str, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Foreign:
    """Diffusers' module of a configuration with its weights.

    Raises:
        InputError: when the weights are not those of the configuration.
    """
    import diffusers

    model = getattr(diffusers, kind).from_config(dict(config))
    load(model, state, kind)
    return Foreign(kind, model)


def load(model: torch.nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Load weights that must fit exactly.

    Raises:
        InputError: with the first name that does not fit.
    """
    own = model.state_dict()
    for name in sorted({*own, *state}):
        here, there = (tuple(s[name].shape) if name in s else None for s in (own, state))
        if here != there:
            raise InputError(
                f"the weights do not fit {what}: {name} has shape {there}, its configuration makes it {here}"
            )
    model.load_state_dict(dict(state))
