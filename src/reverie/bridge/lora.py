"""Low-rank adapters (Hu et al., "LoRA", ICLR 2022) from files in peft's and diffusers' formats: ``W + scale·(α/r)·B·A``.

The product is added to the weights under diffusers' names, so a file serves our networks and wrapped ones alike, though ours keep q, k
and v in one tensor.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from reverie.bridge import weights
from reverie.bridge.folder import read_json, read_tensors
from reverie.bridge.foreign import Foreign
from reverie.bridge.loading import Pretrained
from reverie.bridge.text import Texts
from reverie.core.errors import InputError, RunError, nearest
from reverie.core.text import utf8_name

FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
PARTS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
FORMS = (
    (re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(\.default)?\.weight"), {"A": "down", "B": "up"}),
    (re.compile(r"(?P<module>.+)\.lora\.(?P<side>down|up)\.weight"), {}),
    (re.compile(r"(?P<module>.+)\.lora_linear_layer\.(?P<side>down|up)\.weight"), {}),
    (re.compile(r"(?P<module>.+\.processor\.to_\w+?)_lora\.(?P<side>down|up)\.weight"), {}),
    (re.compile(r"(?P<module>.+)\.(?P<side>alpha)"), {}),
)
"""How the names of a file's tensors end, in the formats there are."""

Model = TypeVar("Model", bound=Pretrained)


@dataclass
class Adapter:
    """What is added to one weight."""

    down: Tensor | None = None
    up: Tensor | None = None
    alpha: float | None = None

    def delta(self, name: str, weight: Tensor, scale: float) -> Tensor:
        """(α/r)·B·A in the shape of the weight; convolutions alike.

        Raises:
            RunError: when half of it is missing, or the shapes do not fit.
        """
        if self.down is None or self.up is None:
            raise RunError(f"the adapter of {name} lacks one of its two matrices: the file is incomplete")
        rank = len(self.down)
        product = self.up.flatten(1).float() @ self.down.flatten(1).float()
        if self.up.shape[1] != rank or product.numel() != weight.numel() or len(product) != len(weight):
            shapes = f"{tuple(self.up.shape)} and {tuple(self.down.shape)}"
            raise RunError(
                f"the adapter of {name} has shapes {shapes}, the weight {tuple(weight.shape)}: it is of another model"
            )
        return scale * (rank if self.alpha is None else self.alpha) / rank * product.reshape(weight.shape)


def merge(model: Model, path: str | Path, scale: float = 1.0) -> Model:
    """Add an adapter to a model's weights, in place; with the negative scale it comes off again, to rounding.

    Args:
        model: from :func:`reverie.load` of a folder in diffusers' format.
        path: a safetensors file, or the folder of one.
        scale: strength.

    Returns:
        The model.

    Raises:
        InputError: for a file in no known format, or for a kind of adapter that is no plain product; RunError: for a damaged file or one
            of another model. The model stays as it was.
    """
    adapters = read_adapters(Path(path).expanduser())
    own = "transformer" if "Transformer" in model.model[0] else "unet"
    parts = {part for part, _ in adapters}
    if wrong := parts - {own, *(name for name in PARTS if name.startswith("text_"))}:
        raise InputError(f"{path} adapts a {sorted(wrong)[0]}, the model has a {own}")
    state = _weights(model)
    changed = _added(state, {m: a for (part, m), a in adapters.items() if part == own}, scale)
    loaded: list[tuple[torch.nn.Module, Mapping[str, Tensor]]] = [(model.net, _ours(model, changed))]
    for i, encoder in enumerate(_encoders(model), 1):
        name = "text_encoder" if i == 1 else f"text_encoder_{i}"
        mine = {m: a for (part, m), a in adapters.items() if part == name}
        parts.discard(name)
        if mine:
            told = encoder.model.state_dict()
            loaded.append((encoder.model, _added(told, {_known(m, told): a for m, a in mine.items()}, scale)))
    if left := parts - {own}:
        raise InputError(f"{path} adapts {sorted(left)[0]}, which the model does not have")
    for module, values in loaded:
        module.load_state_dict(dict(values))
    return model


def read_adapters(path: Path) -> dict[tuple[str, str], Adapter]:
    """The adapters of a file by part of the pipeline and module.

    Raises:
        InputError: when there is no such file, or it is in no known format; RunError: when it is damaged.
    """
    if path.is_dir():
        found = next((path / name for name in FILES if (path / name).is_file()), None)
        if found is None:
            raise InputError(f"there is no adapter in {path}: expected {' or '.join(FILES)}")
        path = found
    if not path.is_file() or path.suffix != ".safetensors":
        raise InputError(f"{path} is no safetensors file; pickles are not opened")
    tensors, said = read_tensors(path), _alphas(path)
    adapters: dict[tuple[str, str], Adapter] = {}
    for name, tensor in tensors.items():
        module, side = _parsed(name, path)
        part, _, inner = module.partition(".")
        key = (part, inner) if part in PARTS else (_network(tensors), module)
        adapter = adapters.setdefault(key, Adapter())
        setattr(adapter, side, float(tensor) if side == "alpha" else tensor)
    for key, adapter in adapters.items():
        if adapter.alpha is None and adapter.down is not None:
            adapter.alpha = said(*key, len(adapter.down))
    return adapters


def _parsed(name: str, path: Path) -> tuple[str, str]:
    for pattern, sides in FORMS:
        if match := pattern.fullmatch(name):
            module = match["module"].removeprefix("base_model.model.").replace(".processor.", ".")
            module = re.sub(r"\.to_out$", ".to_out.0", module)
            return module, sides.get(match["side"], match["side"])
    raise InputError(f"{path} holds {name!r}, which is no plain low-rank product in peft's or diffusers' format")


def _network(tensors: Mapping[str, Any]) -> str:
    return (
        "transformer"
        if any("transformer_blocks." in n and "down_blocks" not in n and "up_blocks" not in n for n in tensors)
        else "unet"
    )


def _alphas(path: Path) -> Any:
    """A function of part, module and rank that gives α, from the file's header or the adapter_config.json beside it."""
    from safetensors import safe_open

    with utf8_name(path) as name, safe_open(name, "pt") as file:
        header = (file.metadata() or {}).get("lora_adapter_metadata")
    flat: dict[str, Any] = json.loads(header) if header else {}
    beside = path.with_name("adapter_config.json")
    config = read_json(beside) if not header and beside.is_file() else {}

    def alpha(part: str, module: str, rank: int) -> float:
        own = {k.removeprefix(f"{part}."): v for k, v in flat.items() if k.startswith(f"{part}.")} if header else config
        if own.get("use_dora"):
            raise InputError(f"{path} is a DoRA adapter, which has no translation")
        pattern = own.get("alpha_pattern") or {}
        value = float(next((v for k, v in pattern.items() if module.endswith(k)), own.get("lora_alpha", rank)))
        return value * rank**0.5 if own.get("use_rslora") else value

    return alpha


def _weights(model: Pretrained) -> dict[str, Tensor]:
    """The weights under diffusers' names."""
    net = model.net
    return dict(net.foreign.state_dict()) if isinstance(net, Foreign) else weights.to_theirs(net, model.model[1])  # pyright: ignore[reportArgumentType]


def _ours(model: Pretrained, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    net = model.net
    if isinstance(net, Foreign):
        return {f"foreign.{name}": value for name, value in state.items()}
    return weights.to_ours(net, model.model[1], state)  # pyright: ignore[reportArgumentType]


def _encoders(model: Pretrained) -> list[Any]:
    return model.conditioner.text.encoders if isinstance(model.conditioner.text, Texts) else []


def _known(module: str, state: Mapping[str, Tensor]) -> str:
    """The module's name in this version of transformers: with or without the outermost model."""
    for name in (module, module.removeprefix("text_model."), f"text_model.{module}"):
        if f"{name}.weight" in state:
            return name
    return module


def _added(state: Mapping[str, Tensor], adapters: Mapping[str, Adapter], scale: float) -> dict[str, Tensor]:
    result = dict(state)
    for module, adapter in adapters.items():
        name = f"{module}.weight"
        if name not in state:
            raise RunError(
                f"the adapter changes {name}, which the model does not have: it is of another model.{nearest(name, state)}"
            )
        result[name] = state[name] + adapter.delta(name, state[name], scale).to(state[name])
    return result
