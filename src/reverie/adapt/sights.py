"""A sight of a subject: what a model of texts is shown of it besides its word, each time that it draws.

A row for the word says to the text encoder what a subject is. A sight acts behind that, where the model reads the text: told where the
word stands among the tokens, it changes what they say, or adds to what cross-attention gives,

    softmax(Q·Kᵀ/√d)·V  +  s·(what of the subject is to be seen at a place).

Where words stand is told beside the text as the condition :data:`WHERE`, so that guidance leads away from the subject as from any word; a
text that does not name it is the base's, to the bit. A sight lives in an adapter, under the token whose word it belongs to; its strength s
is the adapter's, and sights of several subjects add up.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from reverie.core.call import Call, Now, per_branch
from reverie.core.condition import Cond, Entry, Tokens
from reverie.core.conditioner import Conditioner, TextEncoder
from reverie.core.denoiser import NetDenoiser
from reverie.core.errors import InputError
from reverie.nets import places, taps
from reverie.nets.places import Place

WHERE = "subjects"
"""The condition that says where the words of n subjects stand: (B, L, n), 1 at a token of the word and 0 elsewhere."""


class Sight(nn.Module, ABC):
    """Numbers of B subjects, one in an adapter.

    ``kind`` is its name in files.

    Args:
        numbers: by name, the first axis the subjects, or of length 1; a network's where a gradient is to pass.
        delay: share of the way from noise to picture on which the subject is told by its word alone (FastComposer, Xiao et al. 2023,
            section 4.3).

    Raises:
        InputError: for a delay that is no share.
    """

    kind: ClassVar[str]

    def __init__(self, numbers: Mapping[str, Tensor] | nn.ParameterDict, delay: float = 0.0) -> None:
        super().__init__()
        self.delay = check_delay(delay)
        self.numbers = numbers

    def kept(self) -> Self:
        """The same with numbers of its own, as an adapter holds them."""
        own = {name: nn.Parameter(value.detach().clone()) for name, value in self.numbers.items()}
        return type(self)(nn.ParameterDict(own), **self.settings())

    def settings(self) -> dict[str, float]:
        """What a file says of it besides its numbers."""
        return {"delay": self.delay}

    @property
    @abstractmethod
    def attends(self) -> Collection[str]:
        """The sites of the attentions that it adds to."""

    def read(self, text: Tensor, mask: Tensor | None, where: Tensor, share: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the text says to the network.

        Args:
            text: (B, L, D), the tokens that the text encoder gives.
            mask: (B, L) bool, true where a token is real.
            where: (B, L), 1 where the word stands.
            share: (B,), how much of the subject is shown.

        Returns:
            The same, perhaps with further tokens behind.
        """
        return text, mask

    def add(self, q: Tensor, k: Tensor, where: Tensor, at: taps.AttentionAt) -> Tensor:
        """What is added to the attention of a site, (B, heads, N, d).

        Args:
            q: (B, heads, N, d); ``k`` (B, heads, M, d).
            where: (B, M), 1 where the word stands among the keys.
            at: the attention.
        """
        raise NotImplementedError


class Used(NamedTuple):
    """A sight that a model has: its token, and the strength."""

    token: str
    sight: Sight
    scale: float


def check_delay(delay: float) -> float:
    """The share of the way without a subject.

    Raises:
        InputError: when it is none.
    """
    if not 0.0 <= delay <= 1.0:
        raise InputError(f"the share of the steps that are told words alone is 0 to 1: got {delay}")
    return delay


def crossing(net: nn.Module) -> dict[str, Place]:
    """The attentions of a network towards a text.

    Raises:
        InputError: when it has none.
    """
    known = taps.find(net, [name for name, place in places.of(getattr(net, "foreign", net)).items() if place.attention])
    found = {
        name: place
        for name, place in known.items()
        if getattr(module := net.get_submodule(place.path), "cross", False)
        or getattr(module, "is_cross_attention", False)
    }
    if not found:
        raise unread(f"{type(net).__name__} has no cross-attention to a text")
    return found


def unread(what: str) -> InputError:
    """Says which models are shown subjects, and the way round."""
    return InputError(
        f"a subject is shown to models that read texts by cross-attention (unet, dit): {what}. For others there are "
        "`reverie train e4t` and `reverie train hyperdreambooth`"
    )


def standing(conditioner: Conditioner, texts: Sequence[str], names: Sequence[Sequence[str]], length: int) -> Tensor:
    """Where words stand, (B, L, n) as :data:`WHERE` has it.

    Args:
        conditioner: of the model.
        texts: B of them.
        names: of each text the n words; one that it does not have stands nowhere.
        length: L.
    """
    where = torch.zeros(len(texts), length, max(map(len, names)))
    for i, (text, several) in enumerate(zip(texts, names, strict=True)):
        words = conditioner.words(text)
        for j, name in enumerate(several):
            for word, positions in words.items():
                if name in word:
                    where[i, [p for p in positions if p < length], j] = 1.0
    return where


class Pointing:
    """A text encoder that also says where some words stand, see :data:`WHERE`.

    Args:
        text: the encoder.
        names: the words.
    """

    def __init__(self, text: Any, names: Sequence[str]) -> None:
        self.text, self.names = text, list(names)

    def __getattr__(self, name: str) -> Any:
        if name == "text":
            raise AttributeError(name)
        return getattr(self.text, name)

    def __call__(self, texts: Sequence[str], negative: Sequence[str] | None = None) -> Mapping[str, Entry]:
        said = self.text(texts, negative)
        value = said["text"].value
        where = standing(self, texts, [self.names] * len(texts), value.shape[1])  # pyright: ignore[reportArgumentType]
        return {**said, WHERE: Entry(where.to(value), None, said["text"].present)}

    def spoken(self, rows: Mapping[str, Tensor]) -> TextEncoder:
        return Pointing(self.text.spoken(rows), self.names)

    def words(self, text: str) -> dict[str, tuple[int, ...]]:
        return self.text.words(text)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        self.text.to(device, dtype)
        return self


class Seeing:
    """The change of a call (:mod:`reverie.core.call`) that shows a network subjects.

    Args:
        sights: of the subjects that :data:`WHERE` tells of, in that order, and the strength of each.
        places: of the network's cross-attention.
    """

    def __init__(self, sights: Sequence[tuple[Sight, float]], places: Mapping[str, Place]) -> None:
        self.sights, self.places = list(sights), places

    @property
    def sites(self) -> Collection[str]:
        return self.places

    def __call__(self, net: nn.Module, now: Now) -> nn.Module:
        shown: list[tuple[Sight, Tensor, Tensor]] = []
        net = taps.AttentionEdit(self.places, dict.fromkeys(self.places, partial(self._attend, shown)))(net, now)

        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            x, cond = args[0], args[2] if len(args) > 2 else kwargs.get("cond")
            shown.clear()
            if cond is None or WHERE not in cond or "text" not in cond:
                return None
            where = cond[WHERE].fill(x.new_zeros(1, len(self.sights))).value
            entry = cond["text"]
            text, mask = entry.value, entry.mask
            for (sight, scale), at in zip(self.sights, where.expand(len(x), -1, -1).unbind(-1), strict=True):
                share = scale * at.amax(1) * _begun(now, sight.delay, x)
                if share.any():
                    sight.to(x.device)
                    text, mask = sight.read(
                        text.expand(len(x), -1, -1), mask, pad(at, (0, text.shape[1] - at.shape[1])), share
                    )
                    shown.append((sight, at, share))
            if not shown:
                return None
            told = Cond(**{**{name: cond[name] for name in cond}, "text": entry._replace(value=text, mask=mask)})
            return ((*args[:2], told, *args[3:]), kwargs) if len(args) > 2 else (args, {**kwargs, "cond": told})

        net.register_forward_pre_hook(enter, with_kwargs=True)
        return net

    def _attend(
        self, shown: Sequence[tuple[Sight, Tensor, Tensor]], q: Tensor, k: Tensor, v: Tensor, at: taps.AttentionAt
    ) -> Tensor:
        out = at.attend(q, k, v)
        for sight, where, share in shown:
            if at.site in sight.attends:
                added = sight.add(q, k, pad(where, (0, k.shape[2] - where.shape[1])).to(q), at)
                out = out + share.to(q).reshape(-1, 1, 1, 1) * added
        return out


def _begun(now: Now, delay: float, x: Tensor) -> Tensor:
    """1 where so much of the way from noise to picture is behind, (1,) or one a row."""
    if not delay or now.point is None:
        return x.new_ones(1)
    t = torch.as_tensor(now.point.t, device=x.device).flatten()
    return ((t <= 1.0 - delay) & (delay < 1.0)).to(x.dtype)


def rows(value: Tensor, at: taps.AttentionAt, count: int) -> Tensor:
    """Numbers of subjects (B or 1, …) for the rows of a call's batch."""
    value = per_branch(value, count, Call(at.branches))
    return value.expand(count, *value.shape[1:])


def seeing(model: Any, used: Sequence[Used], under: str = "") -> Any:
    """A model, which is a copy of its own already, that is shown subjects.

    Args:
        model: a denoiser.
        used: the sights, with their tokens; as the model is without any.
        under: where in the network that is called the one with the attentions lies.

    Raises:
        InputError: for a model that reads no texts by cross-attention, or a sight of other attentions.
    """
    if not used:
        return model
    check_reads(model)
    net = model.net.get_submodule(under) if under else model.net
    found = crossing(net)
    for token, sight, _ in used:
        if lost := sorted(set(sight.attends) - set(found)):
            raise InputError(f"{token} is shown in {lost[0]}, which the model does not have: it is of another model")
    text, told = model.conditioner.text, model.conditions["text"]
    model.conditions = {**model.conditions, WHERE: Tokens(len(used), told.length)}
    names = [each.token for each in used]
    model.conditioner = Conditioner(model.conditions, model.conditioner.classes, Pointing(text, names))
    paths = {name: place.under(under) for name, place in found.items()}
    model.within = Seeing([(each.sight, each.scale) for each in used], paths)
    return model


def check_reads(model: Any) -> None:
    """Raise an :class:`InputError` unless a model is a denoiser that is told texts, token by token."""
    if not isinstance(model, NetDenoiser) or not isinstance(model.conditions.get("text"), Tokens):
        raise unread("this one is told " + (", ".join(model.conditions) or "nothing"))
    if model.conditioner.text is None:
        raise unread("this one has no text encoder")


def delayed(sight: Sight, delay: float) -> Sight:
    """The same sight, told later; it shares the numbers."""
    other = copy.copy(sight)
    other.delay = check_delay(delay)
    return other
