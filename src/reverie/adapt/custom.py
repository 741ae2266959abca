"""Custom Diffusion (Kumari et al., "Multi-Concept Customization of Text-to-Image Diffusion", CVPR 2023).

Trained are the maps from the condition to keys and values, and the token. Of a model of classes, which has no keys of them, it is the maps
from the condition to what modulates the blocks. Concepts that were trained apart merge in closed form (section 3.2, eq. 4): of all W that
give each concept's own values, ``W·Cᵀ = Vᵀ``, the nearest to W₀ on the regularisation set,

    W = W₀ + (Vᵀ − W₀·Cᵀ)·(d·Cᵀ)⁻¹·d,   d = C·(C_regᵀ·C_reg)⁻¹,

C (n, in) what the layers are told of the concepts, V (n, out) what the concepts' layers make of it, C_reg (N, in) what they are told else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from reverie.adapt.adapter import Adapter
from reverie.adapt.applying import apply
from reverie.adapt.change import Change, layers
from reverie.adapt.dreambooth import Dense
from reverie.adapt.lora import factored
from reverie.core.condition import Cond
from reverie.core.denoiser import NetDenoiser
from reverie.core.errors import InputError

KEYS = r"(cross\.kv|attn2\.to_[kv]|attention\.qkv_context|add_[kv]_proj)$"
"""The maps to keys and values of a text, in our networks and in those of diffusers."""
MODULATION = r"(modulation|time_emb_proj|norm1\.linear|adaLN_modulation\.\d)$"
"""The maps to what modulates the blocks."""


def where(net: nn.Module) -> str:
    """The layers that Custom Diffusion trains in a network, as a regular expression."""
    return KEYS if any(re.search(KEYS, path) for path, _ in net.named_modules()) else MODULATION


def changes(net: nn.Module, pattern: str | None = None) -> dict[str, Change]:
    """A change of zero for each of the layers.

    Raises:
        InputError: when there are none.
    """
    found = layers(net, where(net) if pattern is None else pattern)
    return {name: Dense.blank(tuple(weight.shape), {}) for name, weight in found.items()}


def compressed(adapter: Adapter, mass: float = 0.6) -> Adapter:
    """The adapter with each change as a product of low rank that keeps a share of its singular values' sum (section 3.3).

    Raises:
        InputError: for a share out of (0, 1].
    """
    if not 0.0 < mass <= 1.0:
        raise InputError(f"the share of the singular values to keep is in (0, 1]: got {mass}")
    small: dict[str, Change] = {
        name: factored(change.values, mass=mass) if isinstance(change, Dense) and change.values.ndim > 1 else change
        for name, change in adapter.changes.items()
    }
    rows = {token: row.detach() for token, row in adapter.rows.items()}
    return Adapter(adapter.method, adapter.base, small, rows, adapter.likes).requires_grad_(False)


def constrained(weight: Tensor, told: Tensor, values: Tensor, others: Tensor) -> Tensor:
    """W of the closed form, in double precision.

    Args:
        weight: W₀, (out, in).
        told: C, (n, in), independent rows.
        values: V, (n, out).
        others: C_reg, (N, in).

    Raises:
        InputError: when rows of C depend on each other, so that no W gives all values, or C_reg does not span the inputs.
    """
    w, c, v, r = (x.double() for x in (weight, told, values, others))
    if int(torch.linalg.matrix_rank(c)) < len(c):
        raise InputError(
            f"the {len(c)} inputs of the concepts depend on each other: give fewer words, or prompts that differ"
        )
    if int(torch.linalg.matrix_rank(r)) < r.shape[1]:
        raise InputError(
            f"the regularisation set holds {len(r)} inputs of {r.shape[1]} numbers, which do not span them: give more prompts"
        )
    d = torch.linalg.solve(r.T @ r, c.T).T
    return w + (v.T - w @ c.T) @ torch.linalg.solve(d @ c.T, d)


def merged(
    denoise: NetDenoiser, concepts: Sequence[tuple[Adapter, str]], others: Sequence[str], ridge: float = 1e-3
) -> Adapter:
    """Adapters of several concepts as one, for a model of texts.

    Args:
        denoise: the base.
        concepts: each adapter with the prompt that names its token.
        others: prompts of the regularisation set.
        ridge: added to C_regᵀ·C_reg, relative to its mean diagonal, as prompts seldom span all inputs.

    Raises:
        InputError: for a model without texts, an adapter that changes other layers than keys and values, or a prompt without its token.
    """
    if denoise.conditioner.text is None:
        raise InputError("the closed form merges what a model of texts is told: join others by rv.adapt.joined")
    told, models = [], []
    for adapter, prompt in concepts:
        model = apply(denoise, adapter)
        words = model.conditioner.words(prompt)
        places = [i for token in adapter.tokens for i in words.get(token, ())]
        if not places:
            raise InputError(f"the prompt {prompt!r} does not name {' or '.join(adapter.tokens) or 'a token'}")
        told.append(_values(model.conditioner(prompt))[0, places])
        models.append(model)
    regular = torch.cat([_values(denoise.conditioner(text)).flatten(0, 1) for text in others]).double()
    extra = (ridge * regular.square().sum() / regular.shape[1]).sqrt()
    regular = torch.cat([regular, extra * torch.eye(regular.shape[1], dtype=torch.float64).to(regular.device)])
    names = {name for adapter, _ in concepts for name in adapter.changes}
    changes: dict[str, Change] = {}
    for name in sorted(names):
        weight = denoise.net.get_parameter(name)
        if not re.search(KEYS, name.removesuffix(".weight")):
            raise InputError(f"an adapter changes {name}, which is no map to keys and values")
        values = [c @ model.net.get_parameter(name).T for c, model in zip(told, models, strict=True)]
        whole = constrained(weight, torch.cat(told), torch.cat(values), regular)
        changes[name] = Dense((whole - weight.double()).to(weight.dtype))
    rows: Mapping[str, Tensor] = {t: r.detach() for adapter, _ in concepts for t, r in adapter.rows.items()}
    return Adapter("custom", concepts[0][0].base, changes, rows).requires_grad_(False)


def _values(cond: Cond) -> Tensor:
    return cond["text"].value
