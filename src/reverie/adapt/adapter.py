"""An adapter: what is added to a model that stays as it is, in a small file that knows its base.

Of each weight W that it changes it holds a :class:`~reverie.adapt.change.Change`, which gives ΔW; of each token that it teaches the model
the row of numbers that the model is told for it, and perhaps a :class:`~reverie.adapt.sights.Sight` of what it is shown besides. Adapters
add up: ``W + Σ s_i·ΔW_i(W)``.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reverie.adapt.change import Change
from reverie.adapt.demonstrations import Demonstration
from reverie.adapt.dreambooth import Dense
from reverie.adapt.e4t import Offsets
from reverie.adapt.elite import WordKeys
from reverie.adapt.fastcomposer import Fused
from reverie.adapt.hyperdreambooth import Light
from reverie.adapt.lora import DoRA, LowRank, factored
from reverie.adapt.sights import Sight, delayed
from reverie.adapt.svdiff import Spectral
from reverie.core.errors import InputError, nearest
from reverie.core.files import about, opened, write_tensors

KINDS: dict[str, type[Change]] = {kind.kind: kind for kind in (LowRank, DoRA, Spectral, Dense, Offsets, Light)}
"""The kinds of changes by their names in files."""
SIGHTS: dict[str, type[Sight]] = {kind.kind: kind for kind in (WordKeys, Fused, Demonstration)}
"""The kinds of sights by their names in files."""
FORMAT = 1
TOKEN = re.compile(r"<[\w-]+>")


class Adapter(nn.Module):
    """Changes of the weights of one base, and rows for new tokens.

    Args:
        method: that made it.
        base: the hash of the network it belongs to, see :func:`fingerprint`.
        changes: by the name of the weight.
        rows: by token, such as ``<mine>``.
        likes: the number of the class that a token is like, where it is like one: a closed form that the network corrects takes it
            for that.
        sights: by token, of those that a model of texts is shown.

    Raises:
        InputError: for a token of another form.
    """

    def __init__(
        self,
        method: str,
        base: str,
        changes: Mapping[str, Change] | None = None,
        rows: Mapping[str, Tensor] | None = None,
        likes: Mapping[str, int] | None = None,
        sights: Mapping[str, Sight] | None = None,
    ) -> None:
        super().__init__()
        self.method, self.base = method, base
        self.changed = nn.ModuleDict({name.replace(".", "/"): change for name, change in (changes or {}).items()})
        for token in rows or {}:
            if not TOKEN.fullmatch(token):
                raise InputError(f"a token is one word in angle brackets, such as <mine>: got {token!r}")
        self.rows, self.likes = nn.ParameterDict(OrderedDict(rows or {})), dict(likes or {})
        self.seen = nn.ModuleDict(sights or {})

    def __repr__(self) -> str:
        count = sum(p.numel() for p in self.parameters())
        told = "".join(f", {token}" for token in self.tokens)
        return f"Adapter({self.method}, {len(self.changed)} weights, {count:,} numbers{told})"

    @property
    def changes(self) -> dict[str, Change]:
        """By the name of the weight."""
        return {name.replace("/", "."): change for name, change in self.changed.items()}  # pyright: ignore[reportReturnType]

    @property
    def tokens(self) -> list[str]:
        return list(self.rows)

    @property
    def sights(self) -> dict[str, Sight]:
        """By token."""
        return dict(self.seen.items())  # pyright: ignore[reportReturnType]

    def delayed(self, delay: float) -> Adapter:
        """The same, its subjects told by their words alone on so much of the way from noise to picture; it shares the numbers.

        Raises:
            InputError: for an adapter that shows no subject, or a delay that is not 0 to 1.
        """
        if not self.sights:
            raise InputError(
                f"a delay is for subjects that an encoder shows (elite, fastcomposer, suti …): {self} shows none"
            )
        sights = {token: delayed(sight, delay) for token, sight in self.sights.items()}
        return Adapter(self.method, self.base, self.changes, dict(self.rows), self.likes, sights).requires_grad_(False)

    def save(self, path: str | Path) -> Path:
        """Write it as safetensors, with method, base, rank and α of each layer as JSON in the header.

        Raises:
            RunError: when it cannot be written.
        """
        said = {
            "kind": "adapter",
            "format": FORMAT,
            "method": self.method,
            "base": self.base,
            "layers": {name: {"kind": change.kind, **change.settings()} for name, change in self.changes.items()},
            "tokens": {token: self.likes.get(token) for token in self.tokens},
            **(
                {"sights": {t: {"kind": s.kind, **s.settings()} for t, s in self.sights.items()}} if self.sights else {}
            ),
        }
        write_tensors(Path(path), {name: v.detach().cpu() for name, v in self.state_dict().items()}, said)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Adapter:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: for a file of something else, or whose tensors are not those that its header names.
            RunError: when it is missing or damaged.
        """
        path = Path(path)
        with opened(path) as file:
            said = about(file)
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        if said.get("kind") != "adapter":
            raise InputError(f"{path} is no adapter of reverie: rv.adapt.load also reads those of peft and kohya")
        if said.get("format") != FORMAT:
            raise InputError(f"{path} is an adapter in format {said.get('format')}, this version reads {FORMAT}")
        try:
            changes = {name: _blank(name, dict(layer), tensors) for name, layer in said["layers"].items()}
            rows = {token: tensors[f"rows.{token}"] for token in said["tokens"]}
            likes = {token: like for token, like in said["tokens"].items() if like is not None}
            sights = {token: _sight(token, dict(about), tensors) for token, about in said.get("sights", {}).items()}
            adapter = cls(said["method"], said["base"], changes, rows, likes, sights)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is an adapter whose file is incomplete: {error} is missing") from error
        expected = adapter.state_dict()
        if wrong := sorted(expected.keys() ^ tensors.keys()):
            what = "lacks" if wrong[0] in expected else "holds, beside what its header names,"
            raise InputError(f"{path} {what} {wrong[0]!r}: the file was changed or cut")
        for name, value in tensors.items():
            if not value.isfinite().all():
                raise InputError(f"{path}: {name} holds numbers that are not finite")
            if value.shape != expected[name].shape:
                raise InputError(
                    f"{path}: {name} has shape {tuple(value.shape)}, its header says {tuple(expected[name].shape)}"
                )
        adapter.load_state_dict(tensors)
        return adapter.requires_grad_(False)


def _blank(name: str, layer: dict[str, Any], tensors: Mapping[str, Tensor]) -> Change:
    """The change that a header names, empty; its shape is that of the tensors."""
    kind = layer.pop("kind")
    if kind not in KINDS:
        raise InputError(f"{name} is changed by {kind!r}, which this version does not know: {', '.join(KINDS)}")
    own = {k.rpartition(".")[2]: v for k, v in tensors.items() if k.startswith(f"changed.{name.replace('.', '/')}.")}
    if issubclass(KINDS[kind], LowRank):
        return KINDS[kind].blank((len(own["up"]), *own["down"].shape[1:]), layer)
    if KINDS[kind] is Light:
        return Light.blank((len(own["up"]), own["down"].shape[1]), layer)
    if KINDS[kind] is Offsets:
        return Offsets.blank((len(own["row"]), len(own["column"])), layer)
    value = own["shift"] if kind == Spectral.kind else own["values"]
    shape = (len(value), len(value)) if kind == Spectral.kind else tuple(value.shape)
    return KINDS[kind].blank(shape, layer)


def _sight(token: str, said: dict[str, Any], tensors: Mapping[str, Tensor]) -> Sight:
    """The sight that a header names, with its numbers."""
    kind, start = said.pop("kind"), f"seen.{token}.numbers."
    if kind not in SIGHTS:
        raise InputError(f"{token} is shown as {kind!r}, which this version does not know: {', '.join(SIGHTS)}")
    numbers = {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
    return SIGHTS[kind](nn.ParameterDict(numbers), **said)


@torch.no_grad()
def fingerprint(net: nn.Module) -> str:
    """The SHA-256 of a network's weights: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def check_scale(scale: float) -> float:
    """The strength of an adapter.

    Raises:
        InputError: unless it is finite.
    """
    if not math.isfinite(scale):
        raise InputError(f"the strength of an adapter is a finite number: got {scale}")
    return scale


def check_fits(adapter: Adapter, net: nn.Module) -> None:
    """Raise an :class:`InputError` unless the network has every weight that is changed, in its shape."""
    weights = dict(net.named_parameters())
    for name, change in adapter.changes.items():
        if name not in weights:
            raise InputError(
                f"the adapter changes {name}, which the model does not have: it is of another model.{nearest(name, weights)}"
            )
        shape = tuple(weights[name].shape)
        try:
            made = type(change).blank(shape, change.settings()).state_dict()
        except (IndexError, RuntimeError):
            made = {}
        held = {key: tuple(value.shape) for key, value in change.state_dict().items()}
        if held != {key: tuple(value.shape) for key, value in made.items()}:
            raise InputError(f"the adapter of {name} has shapes {held}, the weight {shape}: it is of another model")


def joined(*parts: tuple[Adapter, float]) -> Adapter:
    """Several adapters of one base at their strengths as one, of the sum of their ranks: what is applied is the same.

    Raises:
        InputError: for adapters of different bases, a token in two of them, or changes that are no plain products.
    """
    bases = {adapter.base for adapter, _ in parts}
    if len(bases) != 1:
        raise InputError(f"adapters of one base are joined: got those of {', '.join(sorted(b[:12] for b in bases))}")
    terms: dict[str, list[Tensor]] = {}
    dense: set[str] = set()
    rows: dict[str, Tensor] = {}
    likes: dict[str, int] = {}
    for adapter, scale in parts:
        likes |= adapter.likes
        check_scale(scale)
        if adapter.sights:
            raise InputError(
                f"{adapter} shows a subject, which is no product to add up in a file: apply them together in place of that"
            )
        for name, change in adapter.changes.items():
            if type(change) is not LowRank and not isinstance(change, Dense):
                raise InputError(
                    f"a {change.kind} adapter is no plain product, so it joins no others: apply them together in place of that"
                )
            if isinstance(change, LowRank):
                like = change.up.new_empty(len(change.up), *change.down.shape[1:])
            else:
                like = change.values
                dense.add(name)
            terms.setdefault(name, []).append(scale * change.delta(like))
        for token, row in adapter.rows.items():
            if token in rows:
                raise InputError(f"two of the adapters teach {token}: train one of them with another token")
            rows[token] = row.detach()
    changes: dict[str, Change] = {}
    for name, deltas in terms.items():
        whole = torch.stack(deltas).sum(0).detach()
        changes[name] = Dense(whole) if name in dense else factored(whole)
    return Adapter("joined", bases.pop(), changes, rows, likes).requires_grad_(False)
