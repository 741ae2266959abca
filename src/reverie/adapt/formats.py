"""LoRA in the formats of peft and kohya, for other programs; they are read by :func:`reverie.adapt.load`.

Of a model out of a folder of diffusers' the names are those of its modules there; of another those of its own, as peft names the modules of
whatever it wraps.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from reverie.adapt.adapter import Adapter, fingerprint
from reverie.adapt.applying import check_base
from reverie.adapt.lora import LowRank, factored
from reverie.bridge import weights
from reverie.bridge.adapters import CONFIG, PEFT, ROOT
from reverie.bridge.foreign import Foreign
from reverie.bridge.loading import Pretrained
from reverie.core import files
from reverie.core.denoiser import NetDenoiser
from reverie.core.errors import InputError

KOHYA = "lora_unet_"


def write(adapter: Adapter, path: str | Path, denoise: NetDenoiser, form: Literal["peft", "kohya"] = "peft") -> Path:
    """Write the low-rank changes of an adapter for another program, with rank and α of each layer.

    Args:
        adapter: of plain LoRA, without tokens; others first through :func:`reverie.adapt.compressed`.
        path: a folder for peft, which gets the matrices and adapter_config.json; a file ending in .safetensors for kohya.
        denoise: its base.
        form: which format.

    Returns:
        The file of the matrices.

    Raises:
        InputError: for an adapter of another base or kind, tokens, which the formats have no place for, or another ending.
        RunError: when it cannot be written.
    """
    path = Path(path)
    check_base(adapter, fingerprint(denoise.net))
    if adapter.tokens:
        raise InputError(
            f"the formats of peft and kohya hold no tokens, this adapter teaches {', '.join(adapter.tokens)}: train without one"
        )
    if form == "kohya" and path.suffix != ".safetensors":
        raise InputError(f"an adapter in kohya's format is a file ending in .safetensors: got {path}")
    products = named(adapter, denoise)
    tensors: dict[str, Tensor] = {}
    for module, product in products.items():
        up, down = product.up.detach(), product.down.detach()
        up = up[..., None, None] if down.ndim == 4 else up
        if form == "peft":
            tensors |= {f"{ROOT}{module}.lora_A.weight": down, f"{ROOT}{module}.lora_B.weight": up}
        else:
            name = f"{KOHYA}{module.replace('.', '_')}"
            alpha = torch.tensor(product.alpha)
            tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": alpha}
    if form == "peft":
        path = path / PEFT
        files.write(path.with_name(CONFIG), json.dumps(_config(products), indent=2) + "\n")
    files.write_tensors(path, {name: value.cpu() for name, value in tensors.items()}, None)
    return path


def _config(products: dict[str, LowRank]) -> dict[str, Any]:
    """peft's configuration; patterns are of whole names."""
    first = next(iter(products.values()))
    return {
        "peft_type": "LORA", "r": first.rank, "lora_alpha": first.alpha, "target_modules": sorted(products), "bias": "none",
        "rank_pattern": {name: product.rank for name, product in products.items()},
        "alpha_pattern": {name: product.alpha for name, product in products.items()},
    }  # fmt: skip


def named(adapter: Adapter, denoise: NetDenoiser) -> dict[str, LowRank]:
    """The products by the names that modules have outside. Where diffusers keeps in several weights what is one of ours, each gets its
    rows; the rank stays.

    Raises:
        InputError: for changes that are no plain products of low rank.
    """
    products: dict[str, LowRank] = {}
    for name, change in adapter.changes.items():
        if type(change) is not LowRank:
            raise InputError(f"{name} is changed by {change.kind}: the formats of peft and kohya take plain LoRA here")
        products[name.removesuffix(".weight")] = change
    if not isinstance(denoise, Pretrained):
        return products
    net: Any = denoise.net
    if isinstance(net, Foreign):
        return {module.removeprefix("foreign."): product for module, product in products.items()}
    deltas = {name: torch.zeros_like(value) for name, value in net.state_dict().items()}
    for name, change in adapter.changes.items():
        deltas[name] = change.delta(net.get_parameter(name)).detach()
    most = {len(change.state_dict()["down"]) for change in adapter.changes.values()}
    theirs = weights.to_theirs(net, denoise.model[1], deltas)
    return {name.removesuffix(".weight"): factored(value, max(most)) for name, value in theirs.items() if value.any()}
