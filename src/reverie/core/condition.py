"""What a denoiser is conditioned on: an immutable set of named entries, each with a value, a padding mask and a presence a sample."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from reverie.core.errors import InputError, nearest


class Entry(NamedTuple):
    """One condition: ``value`` (B, …), ``mask`` (B, L) true where a token is real (None without padding), ``present`` (B,) bool.

    Where ``present`` is false the network uses its null value, as in classifier-free training (Ho & Salimans 2022).
    """

    value: Tensor
    mask: Tensor | None
    present: Tensor

    def map(self, f: Any) -> "Entry":
        return Entry(f(self.value), None if self.mask is None else f(self.mask), f(self.present))


@dataclass(frozen=True)
class Label:
    """The condition is a class index in 0 … classes−1."""

    classes: int

    def check(self, name: str, entry: Entry) -> None:
        """Raise an :class:`InputError` that names the offending label and the range."""
        if entry.value.is_floating_point() or entry.value.ndim != 1:
            kind = f"{entry.value.dtype} of shape {tuple(entry.value.shape)}"
            raise InputError(f"{name} is a class index, one whole number a sample: got {kind}")
        wrong = entry.value[entry.present & ((entry.value < 0) | (entry.value >= self.classes))]
        if len(wrong):
            raise InputError(f"{name} {int(wrong[0])} is out of range: the model knows classes 0 to {self.classes - 1}")


ConditionSpec = Label
Conditions = Mapping[str, ConditionSpec]


class Cond:
    """Conditions of a batch, ``Cond(label=7)`` or ``Cond(label=[3, 1, 4])``.

    A number or a single value has length 1 and expands to any batch. Nothing changes a ``Cond``: every method returns a new one.
    """

    __slots__ = ("_entries",)

    def __init__(self, **values: Any) -> None:
        entries: dict[str, Entry] = {}
        for name, value in values.items():
            if isinstance(value, Entry):
                entries[name] = value
                continue
            value = torch.as_tensor(value)
            value = value.reshape(1) if value.ndim == 0 else value
            entries[name] = Entry(value, None, torch.ones(len(value), dtype=torch.bool, device=value.device))
        lengths = {name: len(entry.present) for name, entry in entries.items()}
        if len(set(lengths.values()) - {1}) > 1:
            raise InputError(f"the entries of a condition have one length: got {lengths}")
        n = max(lengths.values(), default=1)
        self._entries = {
            name: entry if len(entry.present) == n else _expand(entry, n) for name, entry in entries.items()
        }

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(next(iter(self._entries.values())).present) if self._entries else 1

    def __repr__(self) -> str:
        inner = ", ".join(
            f"{name}={entry.value.tolist() if entry.value.ndim == 1 else tuple(entry.value.shape)}"
            for name, entry in self._entries.items()
        )
        return f"Cond({inner})"

    def _map(self, f: Any) -> "Cond":
        return Cond(**{name: f(entry) for name, entry in self._entries.items()})

    def null(self) -> "Cond":
        """The same conditions with nothing present: the null branch of guidance."""
        return self._map(lambda entry: entry._replace(present=torch.zeros_like(entry.present)))

    def drop(self, keep: Tensor) -> "Cond":
        """Keep the condition only where ``keep`` (B,) bool is true: dropout in training, the same operation as :meth:`null`."""
        return self._map(lambda entry: entry._replace(present=entry.present & keep))

    def index(self, idx: Any) -> "Cond":
        """The conditions of the chosen samples; ``idx`` is a slice, a list or an integer or bool tensor."""
        return self._map(lambda entry: entry.map(lambda v: v[idx]))

    def expand(self, n: int) -> "Cond":
        """One condition for ``n`` samples, or ``n`` as they are.

        Raises:
            InputError: when there are more than one and not ``n``.
        """
        if len(self) == n or not self._entries:
            return self
        if len(self) != 1:
            raise InputError(
                f"got conditions for {len(self)} samples, {n} samples are drawn: give one, or one a sample"
            )
        return self._map(lambda entry: _expand(entry, n))

    def cat(self, other: "Cond") -> "Cond":
        """These samples followed by the others; token sequences of unequal length are padded and masked.

        Raises:
            InputError: when the two have different entries.
        """
        if set(self) != set(other):
            raise InputError(f"cannot join conditions {sorted(self)} and {sorted(other)}: they name different entries")
        return Cond(**{name: _cat(self[name], other[name]) for name in self})

    def to(self, device: torch.device | str) -> "Cond":
        """The same on another device."""
        return self._map(lambda entry: entry.map(lambda v: v.to(device)))

    def check(self, conditions: Conditions) -> None:
        """Check against what a denoiser takes.

        Raises:
            InputError: for an unknown entry (with the nearest name) or a value out of range.
        """
        for name, entry in self._entries.items():
            if name not in conditions:
                known = ", ".join(conditions) or "nothing"
                raise InputError(
                    f"the model is not conditioned on {name!r}, it takes: {known}.{nearest(name, conditions)}"
                )
            conditions[name].check(name, entry)


def _expand(entry: Entry, n: int) -> Entry:
    return entry.map(lambda v: v.expand(n, *v.shape[1:]))


def _cat(a: Entry, b: Entry) -> Entry:
    if a.value.ndim >= 3 and (a.value.shape[1] != b.value.shape[1] or a.mask is not None or b.mask is not None):
        length = max(a.value.shape[1], b.value.shape[1])
        a, b = _pad(a, length), _pad(b, length)
    mask = None if a.mask is None or b.mask is None else torch.cat([a.mask, b.mask])
    return Entry(torch.cat([a.value, b.value]), mask, torch.cat([a.present, b.present]))


def _pad(entry: Entry, length: int) -> Entry:
    value, mask = entry.value, entry.mask
    if mask is None:
        mask = torch.ones(value.shape[:2], dtype=torch.bool, device=value.device)
    extra = length - value.shape[1]
    pad = (0, 0) * (value.ndim - 2) + (0, extra)
    return Entry(torch.nn.functional.pad(value, pad), torch.nn.functional.pad(mask, (0, extra)), entry.present)
