"""What a denoiser is conditioned on: an immutable set of named entries, each with a value, a padding mask and a presence a sample."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from reverie.core import spelling
from reverie.core.errors import InputError, nearest, unknown


class Entry(NamedTuple):
    """One condition: ``value`` (B, …), ``mask`` (B, L) true where a token is real (None without padding), ``present`` (B,) bool.

    Where ``present`` is false the network uses its null value, as in classifier-free training (Ho & Salimans 2022), or ``null`` (B, …),
    the value given in its place: see :meth:`Cond.with_null`; of a sequence ``null_mask`` (B, L) is true where that is real.
    """

    value: Tensor
    mask: Tensor | None
    present: Tensor
    null: Tensor | None = None
    null_mask: Tensor | None = None

    @classmethod
    def of(cls, value: Any, mask: Tensor | None = None) -> "Entry":
        """A value (B, …), all present; a number is one sample, and whole numbers (B,) become int64.

        ``mask`` (B, L) tells tokens from padding.
        """
        try:
            value = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"a condition is made of numbers, got {value!r}: words go through denoise.conditioner"
            ) from error
        value = value.reshape(1) if value.ndim == 0 else value
        if value.ndim == 1 and not value.is_floating_point():
            value = value.long()
        return cls(value, mask, torch.ones(len(value), dtype=torch.bool, device=value.device))

    def map(self, f: Any) -> "Entry":
        mask, null, null_mask = (None if v is None else f(v) for v in (self.mask, self.null, self.null_mask))
        return Entry(f(self.value), mask, f(self.present), null, null_mask)

    def fill(self, null: Tensor) -> "Entry":
        """The entry with the null where nothing is present, in the dtype of the null: what a network reads.

        Args:
            null: the network's own null, of the shape of one sample; sequences may be of another length, the shorter is padded.
        """
        value, mask = self.value.to(null.dtype), self.mask
        null = null.expand(len(value), *null.shape) if self.null is None else self.null.to(null.dtype)
        masked = mask is not None or self.null_mask is not None
        if value.ndim == 3 and (masked or null.shape[1] != value.shape[1]):
            length = max(value.shape[1], null.shape[1])
            (value, mask), (null, real) = _pad(value, mask, length), _pad(null, self.null_mask, length)
            mask = torch.where(self.present[:, None], mask, real)
        present = self.present.reshape(-1, *(1,) * (value.ndim - 1))
        return Entry(torch.where(present, value, null), mask, self.present)


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

    def __str__(self) -> str:
        return f"{self.classes} classes"


@dataclass(frozen=True)
class Vector:
    """The condition is a vector of ``dim`` numbers a sample, (B, dim)."""

    dim: int

    def check(self, name: str, entry: Entry) -> None:
        """Raise an :class:`InputError` unless the value is floating, (B, dim) and finite."""
        _floating(name, entry, f"a vector of {self.dim} numbers a sample, (B, {self.dim})", (self.dim,))

    def __str__(self) -> str:
        return f"{self.dim} numbers"


@dataclass(frozen=True)
class Tokens:
    """The condition is a sequence of at most ``length`` vectors of ``dim`` numbers, (B, L, dim), with a mask where lengths differ."""

    dim: int
    length: int

    def check(self, name: str, entry: Entry) -> None:
        """Raise an :class:`InputError` unless the value is floating, (B, 1 … length, dim) and finite, and every sample has a token."""
        wanted = f"a sequence of 1 to {self.length} vectors of {self.dim} numbers a sample, (B, L, {self.dim})"
        _floating(name, entry, wanted, (None, self.dim))
        length = entry.value.shape[1]
        if not 1 <= length <= self.length:
            raise InputError(f"{name} is {wanted}: got length {length}")
        if entry.mask is None:
            return
        if entry.mask.dtype != torch.bool or entry.mask.shape != entry.value.shape[:2]:
            kind = f"{entry.mask.dtype} of shape {tuple(entry.mask.shape)}"
            raise InputError(
                f"the mask of {name} is bool, {tuple(entry.value.shape[:2])}, true at real tokens: got {kind}"
            )
        empty = (entry.present & ~entry.mask.any(1)).nonzero()
        if len(empty):
            raise InputError(
                f"sample {int(empty[0])} of {name} is all padding: drop it (present false) for the null instead"
            )

    def __str__(self) -> str:
        return f"{self.length} tokens of {self.dim} numbers"


@dataclass(frozen=True)
class Image:
    """The condition is a picture (B, channels, H, W) that joins the channels of the network's input, of the input's height and width."""

    channels: int

    def check(self, name: str, entry: Entry) -> None:
        """Raise an :class:`InputError` unless the value is floating, (B, channels, H, W) and finite."""
        wanted = f"a picture of {self.channels} channels a sample, (B, {self.channels}, H, W)"
        _floating(name, entry, wanted, (self.channels, None, None))

    def __str__(self) -> str:
        return f"a picture of {self.channels} channels"


@dataclass(frozen=True)
class Text:
    """The condition is a text of at most ``length`` tokens, (B, L) whole numbers as :func:`reverie.core.spelling.spelled` makes them.

    It is what data holds; networks are told what a text encoder makes of it, :class:`Tokens`.
    """

    length: int

    def check(self, name: str, entry: Entry) -> None:
        """Raise an :class:`InputError` unless the value holds tokens, (B, 1 … length)."""
        value, wanted = entry.value, f"a text of 1 to {self.length} tokens a sample, (B, L) whole numbers"
        if value.is_floating_point() or value.ndim != 2 or not 1 <= value.shape[1] <= self.length:
            raise InputError(f"{name} is {wanted}: got {value.dtype} of shape {tuple(value.shape)}")
        if ((value < 0) | (value >= spelling.VOCABULARY)).any():
            raise InputError(f"{name} is {wanted}, tokens of 0 to {spelling.VOCABULARY - 1}: use core.spelling.spelled")

    def __str__(self) -> str:
        return f"a text of {self.length} tokens"


def _floating(name: str, entry: Entry, wanted: str, shape: tuple[int | None, ...]) -> None:
    for value in (entry.value, entry.null):
        if value is None:
            continue
        fits = value.ndim == len(shape) + 1 and all(n in (None, m) for n, m in zip(shape, value.shape[1:], strict=True))
        if not value.is_floating_point() or not fits:
            raise InputError(f"{name} is {wanted}, floating: got {value.dtype} of shape {tuple(value.shape)}")
    if not (entry.value.flatten(1).isfinite().all(1) | ~entry.present).all():
        raise InputError(f"{name} holds numbers that are not finite")


ConditionSpec = Label | Vector | Tokens | Text | Image
Conditions = Mapping[str, ConditionSpec]


class Cond:
    """Conditions of a batch, ``Cond(label=7)`` or ``Cond(label=[3, 1, 4])``.

    A number or a single value has length 1 and expands to any batch. Nothing changes a ``Cond``: every method returns a new one.
    """

    __slots__ = ("_entries",)

    def __init__(self, **values: Any) -> None:
        entries = {name: value if isinstance(value, Entry) else Entry.of(value) for name, value in values.items()}
        lengths = {name: len(entry.present) for name, entry in entries.items()}
        if len(set(lengths.values()) - {1}) > 1:
            raise InputError(f"the entries of a condition have one length: got {lengths}")
        n = max(lengths.values()) if lengths else 1
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
        return f"Cond({', '.join(f'{name}={_said(entry)}' for name, entry in self._entries.items())})"

    def _map(self, f: Any) -> "Cond":
        return Cond(**{name: f(entry) for name, entry in self._entries.items()})

    def null(self) -> "Cond":
        """The same conditions with nothing present: the null branch of guidance."""
        return self._map(lambda entry: entry._replace(present=torch.zeros_like(entry.present)))

    def with_null(self, **values: Tensor) -> "Cond":
        """The same with other nulls than the network's own: ``values`` (B, …) or (1, …), each of the shape of its condition,
        of a class that of its embedding.

        Raises:
            InputError: for a name that is not among the conditions.
        """
        entries = dict(self._entries)
        for name, null in values.items():
            if name not in entries:
                raise unknown("condition", name, entries)
            entries[name] = entries[name]._replace(null=null.expand(len(self), *null.shape[1:]), null_mask=None)
        return Cond(**entries)

    def drop(self, keep: Tensor) -> "Cond":
        """Keep the condition only where ``keep`` (B,) bool is true: dropout in training, the same operation as :meth:`null`."""
        return self._map(lambda entry: entry._replace(present=entry.present & keep))

    def index(self, idx: Any) -> "Cond":
        """The conditions of the chosen samples; ``idx`` is a slice, a list or an integer or bool tensor."""
        return self.map(lambda value: value[idx])

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
        """The same on another device; copies of pinned memory to an accelerator do not wait."""
        ahead = not str(device).startswith("cpu")
        return self.map(lambda value: value.to(device, non_blocking=ahead))

    def map(self, f: Callable[[Tensor], Tensor]) -> "Cond":
        """The same with another tensor in place of each."""
        return self._map(lambda entry: entry.map(f))

    def check(self, conditions: Conditions) -> None:
        """Check against what a denoiser takes.

        Raises:
            InputError: for an unknown entry (with the nearest name) or a value out of range.
        """
        self.check_names(conditions)
        for name, entry in self._entries.items():
            conditions[name].check(name, entry)

    def check_names(self, conditions: Conditions) -> None:
        """Check that a denoiser takes all entries, without a look at their values.

        Raises:
            InputError: for an unknown entry, with the nearest name.
        """
        for name in self._entries:
            if name not in conditions:
                known = ", ".join(conditions) or "nothing"
                raise InputError(
                    f"the model is not conditioned on {name!r}, it takes: {known}.{nearest(name, conditions)}"
                )


def _said(entry: Entry) -> str:
    """The values of an entry, or their shape; null where nothing is present."""
    if not entry.present.any():
        return "null"
    if entry.value.ndim != 1:
        absent = int((~entry.present).sum())
        return f"{tuple(entry.value.shape)}{f' with {absent} null' if absent else ''}"
    each = zip(entry.value.tolist(), entry.present.tolist(), strict=True)
    return f"[{', '.join(f'{value}' if present else 'null' for value, present in each)}]"


def as_cond(cond: Any) -> "Cond | None":
    """``cond`` itself.

    Raises:
        InputError: for what is neither a :class:`Cond` nor None.
    """
    if cond is None or isinstance(cond, Cond):
        return cond
    raise InputError(f"a condition is a Cond, such as rv.Cond(label=7), or made by denoise.conditioner: got {cond!r}")


def _expand(entry: Entry, n: int) -> Entry:
    return entry.map(lambda v: v.expand(n, *v.shape[1:]))


def _cat(a: Entry, b: Entry) -> Entry:
    (value, mask), present = _join((a.value, a.mask), (b.value, b.mask)), torch.cat([a.present, b.present])
    if a.null is None and b.null is None:
        return Entry(value, mask, present)
    if a.null is None or b.null is None or a.null.shape[1:] != b.null.shape[1:]:
        raise InputError(
            "conditions whose nulls were replaced join only with others whose nulls were, of the same shape"
        )
    masks = None
    if a.null_mask is not None or b.null_mask is not None:
        length = a.null.shape[1]
        masks = torch.cat([_pad(a.null, a.null_mask, length)[1], _pad(b.null, b.null_mask, length)[1]])
    return Entry(value, mask, present, torch.cat([a.null, b.null]), masks)


def _join(a: tuple[Tensor, Tensor | None], b: tuple[Tensor, Tensor | None]) -> tuple[Tensor, Tensor | None]:
    """Two batches of values and masks as one; sequences (B, L, D) are padded to the longer."""
    if a[0].ndim == 3 and (a[0].shape[1] != b[0].shape[1] or a[1] is not None or b[1] is not None):
        length = max(a[0].shape[1], b[0].shape[1])
        (x, m), (y, n) = _pad(*a, length), _pad(*b, length)
        return torch.cat([x, y]), torch.cat([m, n])
    if a[0].shape[1:] != b[0].shape[1:]:
        raise InputError(f"cannot join conditions of shapes {tuple(a[0].shape)} and {tuple(b[0].shape)}")
    return torch.cat([a[0], b[0]]), None


def _pad(value: Tensor, mask: Tensor | None, length: int) -> tuple[Tensor, Tensor]:
    if mask is None:
        mask = torch.ones(value.shape[:2], dtype=torch.bool, device=value.device)
    extra = length - value.shape[1]
    pad = torch.nn.functional.pad
    return pad(value, (0, 0, 0, extra)), pad(mask, (0, extra))


def entry_of(cond: Cond | None, name: str, null: Tensor, batch: int) -> Entry:
    """What a network of ``batch`` samples reads of the condition ``name``: ``null`` (one sample's) where it is absent, no null left.

    Returns:
        An :class:`Entry` of ``batch`` samples.
    """
    if cond is None or name not in cond:
        value = null.expand(batch, *null.shape)
        return Entry(value, None, torch.zeros(batch, dtype=torch.bool, device=value.device))
    entry = cond[name].fill(null)
    return entry if len(entry.present) == batch else _expand(entry, batch)
