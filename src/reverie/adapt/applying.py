"""Adapters on a model: another model that shares all weights that are not changed, while the base stays as it is.

denoise = rv.load("runs/demo")
mine = rv.adapt.load("mine.safetensors")
images = rv.sample(rv.adapt.apply(denoise, (mine, 0.8)), 16, cond)
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from reverie import bridge
from reverie.adapt import tokens
from reverie.adapt.adapter import Adapter, check_fits, check_scale, fingerprint
from reverie.adapt.lora import LowRank
from reverie.adapt.sights import Used, seeing
from reverie.adapt.tokens import M, Model
from reverie.bridge.adapters import read_adapters
from reverie.bridge.loading import Pretrained
from reverie.core.errors import InputError
from reverie.core.files import about, opened
from reverie.nets.copies import sharing


@dataclass(frozen=True)
class Outside:
    """A file of low-rank adapters in the format of peft, diffusers or kohya; it does not say which model it belongs to."""

    path: Path


Given = Adapter | Outside


def load(path: str | Path) -> Given:
    """An adapter from its file, from the folder of a run of ``reverie adapt``, or from a file or folder of peft, diffusers or kohya.

    Raises:
        InputError: when there is none.
        RunError: when it is damaged.
    """
    path = Path(path).expanduser()
    if (path / FILE).is_file():
        return Adapter.load(path / FILE)
    if path.is_file() and path.suffix == ".safetensors":
        with opened(path) as file:
            if about(file):
                return Adapter.load(path)
    read_adapters(path)
    return Outside(path)


FILE = "adapter.safetensors"
"""In the folder of a run of ``reverie adapt``, what it has made."""


def apply(denoise: M, *adapters: Given | tuple[Given, float], anyway: bool = False) -> M:
    """The model with adapters merged into its weights; the base stays, and shares the weights that are not changed.

    Applied to a model that has adapters already, they join those: the order makes no difference but to rounding.

    Args:
        denoise: the base, a denoiser or a model of tokens.
        adapters: each as it is, or with a strength: ``(adapter, 0.8)``. 0 is the base, to the bit.
        anyway: also adapters of another base, whose shapes fit.

    Raises:
        InputError: for an adapter of another base, by its hash; one that changes weights that the model does not have; a token that the
            model or two adapters know; a strength that is not finite.
    """
    base, uses = getattr(denoise, "adapted", (denoise, ()))
    uses = (*uses, *((each, 1.0) if isinstance(each, Adapter | Outside) else each for each in adapters))
    hashed, ours, theirs = None, [], []
    for adapter, scale in uses:
        check_scale(scale)
        if isinstance(adapter, Outside) and isinstance(base, Pretrained):
            theirs.append((adapter, scale))
            continue
        if isinstance(adapter, Adapter) and not anyway:
            hashed = hashed or fingerprint(base.net)
            check_base(adapter, hashed)
        own = adapter if isinstance(adapter, Adapter) else _own(base.net, adapter)
        check_fits(own, base.net)
        ours.append((own, scale))
    other: Any = _with(base, ours)
    if theirs:
        assert isinstance(base, Pretrained)
        other.net, other.conditioner = copy.deepcopy(other.net), copy.deepcopy(other.conditioner)
        for adapter, scale in theirs:
            bridge.merge(other, adapter.path, scale)
    other.adapted = base, uses
    return other


def check_base(adapter: Adapter, base: str) -> None:
    """Raise an :class:`InputError` unless an adapter belongs to the network of a hash."""
    if adapter.base != base:
        raise InputError(
            f"the adapter belongs to a base with hash {adapter.base[:12]}, this model has {base[:12]}: other weights, another checkpoint, "
            "or the same cast to another type. Load the base that it was trained on, in the type of its file; or apply it all the same "
            "with anyway=True (--anyway), where the shapes fit"
        )


def _with(denoise: M, uses: Sequence[tuple[Adapter, float]]) -> M:
    rows = gathered(denoise, [adapter for adapter, _ in uses])
    likes = [adapter.likes.get(token) for adapter, _ in uses for token in adapter.tokens]
    with torch.no_grad():
        changed = _put(denoise.net, effective(denoise.net, [(each.to(denoise.device), scale) for each, scale in uses]))
        names, shell = tokens.room(denoise, changed, rows, likes)
        shell = (
            _put(shell, tokens.grown(dict(changed.named_parameters()), names, list(rows.values()))) if names else shell
        )
    shown = [Used(token, sight, scale) for each, scale in uses for token, sight in each.sights.items()]
    return seeing(tokens.hearing(denoise, shell, rows), shown)


def _put(net: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """A copy of a network with other weights, by name."""
    shell = sharing(net, {name.rpartition(".")[0] for name in weights})
    for name, value in weights.items():
        path, _, leaf = name.rpartition(".")
        owner: Any = shell.get_submodule(path)
        owner._parameters = {**owner._parameters, leaf: nn.Parameter(value, requires_grad=False)}
    return shell


def gathered(denoise: Model, adapters: Sequence[Adapter]) -> dict[str, Tensor]:
    """The rows of all tokens of adapters.

    Raises:
        InputError: for a token that two know, or the model as the name of a class.
    """
    rows: dict[str, Tensor] = {}
    for adapter in adapters:
        for token, row in adapter.rows.items():
            if token in rows or token in denoise.conditioner.classes:
                raise InputError(
                    f"the token {token} is known already: train one of them with another, --token '<other>'"
                )
            rows[token] = row.to(denoise.device)
    return rows


def effective(net: nn.Module, uses: Sequence[tuple[Adapter, float]]) -> dict[str, Tensor]:
    """``W + Σ s·ΔW(W)`` of every weight that is changed, by name."""
    found: dict[str, Tensor] = {}
    for adapter, scale in uses:
        for name, change in adapter.changes.items():
            weight = net.get_parameter(name)
            found[name] = found.get(name, weight) + scale * change.delta(weight)
    return found


class Adapted(nn.Module):
    """The network of a model with an adapter unmerged: a gradient reaches the adapter's numbers and no others.

    Args:
        model: the base, frozen.
        adapter: on the device of the base.
    """

    def __init__(self, model: Model, adapter: Adapter) -> None:
        super().__init__()
        self.net, self.adapter = model.net, adapter
        likes = [adapter.likes.get(token) for token in adapter.tokens]
        self.places, self.shell = tokens.room(model, model.net, dict(adapter.rows), likes)
        self.prior = getattr(self.shell, "prior", None)

    def __getattr__(self, name: str) -> Any:
        """What else is asked of it, the network says with room for the tokens: its null, its mask."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("shell"), name)

    def forward(self, *args: Any) -> Tensor:
        weights = effective(self.net, [(self.adapter, 1.0)])
        if self.places:
            known = {old: weights.pop(old, None) for old in set(self.places.values())}
            known = {old: self.net.get_parameter(old) if w is None else w for old, w in known.items()}
            weights |= tokens.grown(known, self.places, list(self.adapter.rows.values()))
        return functional_call(self.shell, weights, args)


def unmerged(denoise: M, adapter: Adapter) -> M:
    """The model with an adapter beside its weights, to train that."""
    beside = tokens.hearing(denoise, Adapted(denoise, adapter), gathered(denoise, [adapter]))
    return seeing(beside, [Used(token, sight, 1.0) for token, sight in adapter.sights.items()], "shell")


def _own(net: nn.Module, given: Outside) -> Adapter:
    """An adapter of the network's own layers, whose names it has: as peft makes it of any module."""
    changes = {}
    for (_, module), product in read_adapters(given.path).items():
        name = f"{module}.weight"
        assert product.up is not None and product.down is not None
        weight = dict(net.named_parameters()).get(name)
        if weight is None:
            found = [n for n, _ in net.named_parameters() if n.removesuffix(".weight").replace(".", "_") == module]
            if not found:
                raise InputError(f"{given.path} adapts {module}, which the model does not have: it is of another model")
            name, weight = found[0], net.get_parameter(found[0])
        product.delta(name, weight, 1.0)
        rank = len(product.down)
        changes[name] = LowRank(product.up.flatten(1), product.down, rank * product.strength)
    return Adapter("outside", "", changes).requires_grad_(False)
