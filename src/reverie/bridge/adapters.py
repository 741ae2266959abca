"""Files of low-rank adapters in peft's, diffusers' and kohya's formats: matrices and strengths, by part of the pipeline and module.

The strength α/r is, first found first taken: that of the file's own tensor ``alpha``; that of peft's configuration, in the file's header
or in the adapter_config.json beside it; 1, diffusers' convention, where neither is. A file in peft's own layout always has a
configuration: without it the strength is unknown, and the file is refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from reverie.bridge.folder import read_header, read_json, read_tensors
from reverie.core.errors import InputError

PEFT, CONFIG = "adapter_model.safetensors", "adapter_config.json"
FILES = ("pytorch_lora_weights.safetensors", PEFT)
PARTS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
ROOT = "base_model.model."
"""What peft's wrapper puts before the names."""
FORMS = (
    (re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(\.default)?\.weight"), {"A": "down", "B": "up"}),
    (re.compile(r"(?P<module>.+)\.lora\.(?P<side>down|up)\.weight"), {}),
    (re.compile(r"(?P<module>lora_\w+)\.lora_(?P<side>down|up)\.weight"), {}),
    (re.compile(r"(?P<module>.+)\.lora_linear_layer\.(?P<side>down|up)\.weight"), {}),
    (re.compile(r"(?P<module>.+\.to_\w+?)_lora\.(?P<side>down|up)\.weight"), {}),
    (re.compile(r"(?P<module>.+)\.(?P<side>alpha)"), {}),
)
"""How the names of a file's tensors end, in the formats there are."""
KOHYA = {
    "lora_unet_": "unet", "lora_transformer_": "transformer", "lora_te_": "text_encoder", "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2", "lora_te3_": "text_encoder_3",
}  # fmt: skip
"""What stands before the names of kohya's, which have lines for points, and the part that it means."""
PICTURES = ("image_proj.", "ip_adapter.")
"""How the names of an IP-Adapter begin (Ye et al. 2023)."""
EARLY = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
"""What early diffusers called the attention of a text encoder."""
DEFAULT = 8
"""The r and the lora_alpha of a peft configuration that does not say them."""
FOREIGN = (
    "use_dora", "use_qalora", "use_bdlora", "kasa_config", "monteclora_config", "arrow_config", "layer_replication",
    "alora_invocation_tokens",
)  # fmt: skip
"""Options of peft that make more of an adapter than a product."""
RESIDUAL = ("olora", "pissa", "corda", "loftq", "lora_ga")
"""Ways to begin that also change the base weights, to which the adapter then belongs."""


@dataclass
class Adapter:
    """What is added to one weight: ``strength·up·down``."""

    down: Tensor | None = None
    up: Tensor | None = None
    alpha: Tensor | None = None
    strength: float = 1.0

    def delta(self, name: str, weight: Tensor, scale: float) -> Tensor:
        """``scale·strength·up·down`` in the shape of the weight; convolutions alike.

        Raises:
            InputError: when the shapes do not fit.
        """
        down, up = self.down, self.up
        assert down is not None and up is not None
        fits = up.shape[0] == weight.shape[0] and _plain(down.shape[1:]) == _plain(weight.shape[1:])
        if not fits or _plain(up.shape[1:]) != (len(down),):
            raise InputError(
                f"the adapter of {name} has shapes {tuple(up.shape)} and {tuple(down.shape)}, the weight {tuple(weight.shape)}: "
                "it is of another model"
            )
        product = up.flatten(1).float() @ down.flatten(1).float()
        return scale * self.strength * product.reshape(weight.shape)


def _plain(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without the kernel of a 1x1 convolution."""
    return shape[:1] if all(n == 1 for n in shape[1:]) else tuple(shape)


def read_adapters(path: Path) -> dict[tuple[str, str], Adapter]:
    """The adapters of a file, or of a folder with one, by part of the pipeline ("" where the names tell none) and module.

    Raises:
        InputError: when there is no such file, it is in no known format, or it does not hold whole adapters; RunError: when it is damaged.
    """
    if path.is_dir():
        found = next((path / name for name in FILES if (path / name).is_file()), None)
        if found is None:
            raise InputError(f"there is no adapter in {path}: expected {' or '.join(FILES)}")
        path = found
    if not path.is_file() or path.suffix != ".safetensors":
        raise InputError(f"{path} is no safetensors file; pickles are not opened")
    tensors = read_tensors(path)
    if not tensors:
        raise InputError(f"{path} holds no tensors, so it adapts nothing")
    if foreign := next((name for name in tensors if name.startswith(PICTURES)), None):
        raise InputError(
            f"{path} is an IP-Adapter ({foreign!r}): its attention to a picture's embedding has no translation. rv.adapt.fit teaches a "
            "model what is on a few pictures"
        )
    adapters: dict[tuple[str, str], Adapter] = {}
    for name, tensor in tensors.items():
        part, module, side = _parsed(name, path)
        adapter = adapters.setdefault((part, module), Adapter())
        if getattr(adapter, side) is not None:
            raise InputError(f"{path} holds two tensors for the {side} of {module}, one of them {name!r}")
        if not tensor.is_floating_point() or (
            tensor.numel() != 1 if side == "alpha" else 0 in tensor.shape or tensor.ndim < 2
        ):
            wanted = "one number" if side == "alpha" else "a matrix of rank 1 or more"
            raise InputError(f"{path}: {name!r} is {wanted}: got {tensor.dtype} of shape {tuple(tensor.shape)}")
        setattr(adapter, side, tensor)
    said = _said(path, peft=path.name == PEFT or any(name.startswith(ROOT) for name in tensors))
    for (part, module), adapter in adapters.items():
        for side in ("down", "up"):
            if getattr(adapter, side) is None:
                raise InputError(f"the adapter of {module} in {path} lacks its {side} matrix: the file is incomplete")
        rank = len(adapter.down)  # pyright: ignore[reportArgumentType]
        adapter.strength = said(part, module, rank) if adapter.alpha is None else float(adapter.alpha) / rank
    return adapters


def _parsed(name: str, path: Path) -> tuple[str, str, str]:
    """The part, the module and the side that a tensor's name tells."""
    for pattern, sides in FORMS:
        if match := pattern.fullmatch(name):
            module = match["module"].removeprefix(ROOT).replace(".processor.", ".")
            if before := next((before for before in KOHYA if module.startswith(before)), None):
                return KOHYA[before], module.removeprefix(before), sides.get(match["side"], match["side"])
            part, _, inner = module.partition(".")
            part, module = (part, inner.removeprefix(ROOT)) if part in PARTS else ("", module)
            before, _, last = module.rpartition(".")
            if part.startswith("text_encoder"):
                module = f"{before}.{EARLY.get(last, last)}"
            elif last == "to_out":
                module = f"{module}.0"
            return part, module, sides.get(match["side"], match["side"])
    raise InputError(
        f"{path} holds {name!r}, which is no plain low-rank product in peft's, diffusers' or kohya's format"
    )


def _said(path: Path, peft: bool) -> Callable[[str, str, int], float]:
    """A function of part, module and rank that gives the strength, from the file's header or the configuration beside it."""
    header, beside = read_header(path).get("lora_adapter_metadata"), path.with_name(CONFIG)
    if header:
        try:
            flat = json.loads(header)
        except ValueError:
            flat = None
        if not isinstance(flat, dict):
            raise InputError(
                f"the header of {path} holds no configuration that can be read: {header[:40]!r} is no JSON object"
            )
    elif not beside.is_file():
        if peft:
            raise InputError(
                f"{path} is in peft's layout, and {CONFIG}, which says its strength lora_alpha, is not beside it: copy it there too"
            )
        return lambda part, module, rank: 1.0
    else:
        flat = read_json(beside)
    where = f"the header of {path}" if header else str(beside)

    def strength(part: str, module: str, rank: int) -> float:
        inner = bool(header and part)
        own = {k.removeprefix(f"{part}."): v for k, v in flat.items() if k.startswith(f"{part}.")} if inner else flat
        if not own:
            raise InputError(f"{where} says nothing of the {part or 'adapter'}, so its strength lora_alpha is unknown")
        return _strength(own, module, rank, where)

    return strength


def _strength(config: Mapping[str, Any], module: str, rank: int, where: str) -> float:
    """α/r as peft resolves it.

    Raises:
        InputError: for values that are none, another rank than the matrices', or another kind of adapter.
    """
    option = next((name for name in FOREIGN if config.get(name)), None)
    if option or config.get("peft_type", "LORA") != "LORA":
        option = option or "peft_type"
        raise InputError(
            f"{where} says {option} = {config[option]!r}, an adapter without translation: plain LoRA is merged"
        )
    if str(config.get("init_lora_weights")).startswith(RESIDUAL):
        raise InputError(
            f"{where} says init_lora_weights = {config['init_lora_weights']!r}, which also changed the weights under the adapter: "
            "save it with peft's path_initial_model_for_weight_conversion"
        )
    alpha = _resolved(config, "lora_alpha", "alpha_pattern", module, where)
    r = _resolved(config, "r", "rank_pattern", module, where)
    if r != rank:
        raise InputError(f"{where} says rank {r:g} for {module}, its matrices have {rank}: they do not belong together")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _resolved(config: Mapping[str, Any], name: str, patterns: str, module: str, where: str) -> float:
    """A number of a module: that of the first pattern, a regular expression, that matches the end of its name from a dot on."""
    table = config.get(patterns) or {}
    try:
        key = next((key for key in table if re.match(rf"(.*\.)?({key})$", module)), module)
        return float(table.get(key, config.get(name, DEFAULT)))
    except (re.error, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(f"{where}: {name} and {patterns} cannot be read: {error}") from error
