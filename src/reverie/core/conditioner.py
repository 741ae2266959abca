"""From what people write to conditions: strings, class names and pictures become a :class:`Cond`, once a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from reverie.core import image_files
from reverie.core.condition import Cond, Conditions, Entry, Image, Label
from reverie.core.errors import InputError, unknown


class TextEncoder(Protocol):
    """What turns texts into the conditions of a model."""

    def __call__(self, texts: Sequence[str], negative: Sequence[str] | None = None) -> Mapping[str, Entry]:
        """Entries of a sample a text, their nulls set to the encoded ``negative`` texts, by default that of no text."""
        ...

    def words(self, text: str) -> dict[str, tuple[int, ...]]:
        """The positions of each word among the tokens of a text."""
        ...

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Any:
        """Move and cast its weights."""
        ...


class Conditioner:
    """``conditioner("a red fox")``, ``conditioner(label="cat")``, ``conditioner(label=3, image="edges.png")`` -> :class:`Cond`.

    Args:
        conditions: what the model takes.
        classes: the names of its classes.
        text: its text encoder.
    """

    def __init__(self, conditions: Conditions, classes: Sequence[str] = (), text: TextEncoder | None = None) -> None:
        self.conditions, self.classes, self.text = conditions, list(classes), text

    def __call__(
        self, prompt: str | Sequence[str] | None = None, *, negative: str | Sequence[str] | None = None, **raw: Any
    ) -> Cond:
        """The conditions of one or several samples.

        Args:
            prompt: a text or several, for a model that takes text; else names of classes.
            negative: what guidance leads away from, in place of no text; one or one a text.
            raw: any condition of the model by its name: classes by name or number, pictures as tensors, Pillow images or files.

        Returns:
            A checked Cond of one sample a text, label or picture.

        Raises:
            InputError: for an unknown class (with the nearest), a condition that the model does not take, or a text without encoder.
        """
        if prompt is not None:
            raw["text" if self.text is not None or "label" not in self.conditions else "label"] = prompt
        entries: dict[str, Entry] = {}
        for name, value in raw.items():
            if name == "text" and not isinstance(value, Tensor | Entry):
                entries |= self._texts(value, negative)
            elif name in self.conditions:
                entries[name] = self._entry(name, value)
            else:
                raise unknown("condition", name, self.conditions)
        cond = Cond(**entries)
        cond.check(self.conditions)
        return cond

    def words(self, text: str) -> dict[str, tuple[int, ...]]:
        """The positions of each word of a text in the condition "text": where attention to a word is found.

        Raises:
            InputError: when the model has no text encoder.
        """
        return self._encoder().words(text)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The conditioner itself, its text encoder moved and cast."""
        if self.text is not None:
            self.text.to(device, dtype)
        return self

    def _encoder(self) -> TextEncoder:
        if self.text is None:
            taken = ", ".join(self.conditions) or "nothing"
            raise InputError(f"the model has no text encoder; it is conditioned on: {taken}")
        return self.text

    def _texts(self, value: str | Sequence[str], negative: str | Sequence[str] | None) -> Mapping[str, Entry]:
        texts = _several(value)
        away = None if negative is None else _several(negative)
        if away is not None and len(away) not in (1, len(texts)):
            raise InputError(f"got {len(away)} negative texts for {len(texts)}: give one, or one a text")
        return self._encoder()(texts, away if away is None or len(away) == len(texts) else away * len(texts))

    def _entry(self, name: str, value: Any) -> Entry:
        if isinstance(value, Entry):
            return value
        spec = self.conditions[name]
        if isinstance(spec, Label):
            several = isinstance(value, Iterable) and not isinstance(value, str) and getattr(value, "ndim", 1)
            labels: Any = list(value) if several else [value]
            return Entry.of(torch.tensor([self._label(v) for v in labels]))
        if isinstance(spec, Image) and not isinstance(value, Tensor):
            each = value if isinstance(value, list | tuple) else [value]
            return Entry.of(torch.stack([picture(v, spec.channels) for v in each]))
        return Entry.of(value)

    def _label(self, value: Any) -> int:
        if not isinstance(value, str):
            return int(value)
        if value not in self.classes:
            raise (
                unknown("class", value, self.classes)
                if self.classes
                else InputError(f"the model's classes have no names: give a number in place of {value!r}")
            )
        return self.classes.index(value)


def spoken(
    model: Any, cond: Cond | None, text: str | Sequence[str] | None, negative: str | Sequence[str] | None = None
) -> Cond | None:
    """What a model is told: a text or several, as its conditioner reads them, or conditions as they are.

    Raises:
        InputError: for both, for a ``negative`` without a text, or a model that reads no texts.
    """
    if text is None:
        if negative is not None:
            raise InputError("negative= says what to lead away from: say with text= what to draw")
        return cond
    if cond is not None:
        raise InputError("text= and cond= both say what to draw: give one of them")
    conditioner = conditioner_of(model)
    return conditioner(text=[text] if isinstance(text, str) else list(text), negative=negative)


def conditioner_of(model: Any) -> Conditioner:
    """The conditioner of a model, or of the one that a sampler draws with.

    Raises:
        InputError: when it reads no texts.
    """
    found = getattr(model, "conditioner", None) or getattr(getattr(model, "denoise", None), "conditioner", None)
    if not isinstance(found, Conditioner) or found.text is None:
        taken = ", ".join(getattr(model, "conditions", None) or ()) or "nothing"
        raise InputError(f"this model reads no texts, it is conditioned on: {taken}. Train one with --data.captions")
    return found


def _several(value: str | Sequence[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def picture(value: Any, channels: int) -> Tensor:
    """A Pillow image or picture file as (channels, H, W) in [−1, 1]; one channel is grey, three are RGB, on white where it is transparent.

    Raises:
        InputError: when there is no such file, or it is no picture, or for other numbers of channels.
    """
    modes = {1: "L", 3: "RGB", 4: "RGBA"}
    if channels not in modes:
        raise InputError(f"a picture has 1, 3 or 4 channels, the model takes {channels}: give a tensor")
    mode = modes[channels]
    image = image_files.open_image(value, mode) if isinstance(value, str | Path) else image_files.flatten(value, mode)
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.reshape(image.height, image.width, channels).permute(2, 0, 1).float() / 127.5 - 1.0
