"""What texts become on their way to a network: the sequence that it attends to, and one vector that stands for all of it.

Several encoders stand one after the other, as in Stable Diffusion 3 (Esser et al. 2024, section 4): the features of the narrower are padded
with zeros, and their vectors are side by side. Nothing to say is the network's own null, an empty sequence (Ho & Salimans 2022).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from reverie.core import spelling
from reverie.core.batch import Dataset, DataSpec
from reverie.core.condition import Cond, Entry, Text
from reverie.core.denoiser import NetDenoiser
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.files import inside
from reverie.core.task import Optim, Player
from reverie.core.text import warn_of_cut
from reverie.data import captions
from reverie.data.captions import FEATURES, MOST, Captioned
from reverie.data.codes import WHERE
from reverie.diffusion.foreign_text import ForeignText
from reverie.diffusion.reading import read_before
from reverie.nets.config import BYTES, CONFIGS, NetConfig, TextConfig
from reverie.nets.text import TextEncoder

WORDS = 64
"""Of a text that are dropped apart from each other."""
RATE = 3e-4
"""At which our own encoder learns with a network."""
BESIDE = ("vector", spelling.GRAMS)
"""What a text becomes beside its tokens, where it is taken."""
Read = tuple[Tensor, Tensor, Tensor]
"""Of each text the features (B, L, D), which of them are of the text (B, L), and one vector (B, D)."""


class Texts:
    """The text encoders of a model together.

    Args:
        own: trained with the model; None without.
        foreign: encoders of others, which stay as they are.
        pooled: whether the network takes the vector too.
        spelt: whether a closed form takes the n-grams too.
    """

    def __init__(
        self, own: TextEncoder | None, foreign: Sequence[ForeignText] = (), pooled: bool = True, spelt: bool = False
    ) -> None:
        self.own, self.foreign, self.pooled, self.spelt = own, tuple(foreign), pooled, spelt
        self.learned: dict[str, Tensor] = {}
        widths = [each.width for each in ([] if own is None else [own]) + list(self.foreign)]
        self.width, self.vector = max(widths), sum(widths)
        self.length = sum(each.length for each in ([] if own is None else [own]) + list(self.foreign))

    def __call__(self, texts: Sequence[str], negative: Sequence[str] | None = None) -> Mapping[str, Entry]:
        """The entries "text" and, where it is taken, "vector" and "grams"; their nulls are the encoded ``negative`` texts, if any.

        A text that is longer than an encoder takes is cut, with a warning that says how many of its tokens are kept.

        Raises:
            InputError: for a text without a word.
        """
        entries = self._encode(texts)
        if negative is None:
            return entries
        away = self._encode(negative)
        return {name: _with_null(entry, away[name]) for name, entry in entries.items()}

    def told(self, cond: Cond) -> Cond:
        """Conditions of data, in which a text is its tokens and what foreign encoders have made of it, as the network's."""
        if "text" not in cond or cond["text"].value.is_floating_point():
            return cond
        raw = {name: cond[name] for name in cond}
        text = raw.pop("text")
        reads = [] if self.own is None else [_pooled(*self.own(text.value, heard=text.mask), first=True)]
        for i in range(len(self.foreign)):
            kept = raw.pop(FEATURES.format(i))
            assert kept.mask is not None
            reads.append(_pooled(kept.value, kept.mask))
        return Cond(**raw, **self._joined(reads, text.value, text.present))

    @property
    def described(self) -> dict[str, str]:
        """The files of foreign encoders, for the header of a weight file; nothing where there are none."""
        return {"text": " ".join(each.fingerprint for each in self.foreign)} if self.foreign else {}

    def words(self, text: str) -> dict[str, tuple[int, ...]]:
        """The positions of each word of a text among the tokens of the first encoder."""
        return self.foreign[0].words(text) if self.own is None else spelling.words(text, self.own.length, self._numbers)

    def beginning(self, word: str) -> Tensor:
        """The rows of a word's letters, (k, width): told by these, a learned word is that word.

        Raises:
            InputError: for encoders that learn no words.
        """
        table: Tensor = self._learner().embed["byte"].weight  # pyright: ignore[reportAssignmentType]
        return table[spelling.spelled([word], MOST)[0, 1:].to(table.device)].detach().clone()

    def spoken(self, rows: Mapping[str, Tensor]) -> Self:
        """The encoder that also knows these words, each by its rows (k, width) (textual inversion); it shares the rest.

        Raises:
            InputError: for encoders that learn no words.
        """
        self._learner()
        other = copy.copy(self)
        other.learned = {**self.learned, **rows}
        return other

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The encoders themselves, moved and cast."""
        for encoder in (self.own, *self.foreign):
            if encoder is not None:
                encoder.to(device=device, dtype=dtype)
        return self

    def _learner(self) -> TextEncoder:
        """The encoder that learns words."""
        if self.own is None or self.foreign:
            raise InputError(
                "words are learned by the encoder of bytes alone, --text.encoders bytes: adapt this model without a token"
            )
        return self.own

    @property
    def _numbers(self) -> spelling.Learned:
        """The tokens of each learned word."""
        found, end = {}, spelling.VOCABULARY
        for word, rows in self.learned.items():
            found[word], end = range(end, end + len(rows)), end + len(rows)
        return found

    def _encode(self, texts: Sequence[str]) -> dict[str, Entry]:
        for i, text in enumerate(texts):
            if not text.strip():
                raise InputError(f"text {i} is empty: say what to draw, or leave it out to draw without a text")
        reads, learned = [], self._numbers
        if self.own is not None:
            rows = list(self.learned.values())
            warn_of_cut(texts, [spelling.count(text, learned) for text in texts], self.own.length)
            tokens = spelling.spelled(texts, self.own.length, learned).to(self.own.norm.weight.device)
            reads.append(_pooled(*self.own(tokens, torch.cat(rows) if rows else None), first=True))
        for encoder in self.foreign:
            warn_of_cut(texts, encoder.counts(texts), encoder.length)
            reads.append(_pooled(*encoder(texts)))
        device = reads[0][0].device
        present = torch.ones(len(texts), dtype=torch.bool, device=device)
        return self._joined(reads, spelling.spelled(texts, MOST, learned).to(device), present)

    def _joined(self, reads: Sequence[Read], tokens: Tensor, present: Tensor) -> dict[str, Entry]:
        features = torch.cat([pad(value, (0, self.width - value.shape[-1])) for value, _, _ in reads], dim=1)
        mask = torch.cat([mask for _, mask, _ in reads], dim=1)
        entries = {"text": Entry(features, mask, present)}
        if self.pooled:
            entries["vector"] = Entry(torch.cat([vector for _, _, vector in reads], dim=1), None, present)
        if self.spelt:
            entries[spelling.GRAMS] = Entry(spelling.grams(tokens), None, present)
        return entries


def _pooled(features: Tensor, mask: Tensor, first: bool = False) -> Read:
    """With the features of the first token, which our own encoder learns to say all in, or the mean over the text."""
    if first:
        return features, mask, features[:, 0]
    weight = mask.to(features.dtype)[..., None]
    return features, mask, (weight * features).sum(1) / weight.sum(1).clamp(min=1)


def _with_null(entry: Entry, away: Entry) -> Entry:
    """The entry with the value of another as its null."""
    n = len(entry.value)
    mask = None if away.mask is None else away.mask.expand(n, -1)
    return entry._replace(null=away.value.expand(n, *away.value.shape[1:]), null_mask=mask)


def reader_of(model: NetDenoiser) -> nn.Module | None:
    """The text encoder that is trained with a model, if there is one."""
    own = getattr(model.conditioner.text, "own", None)
    return own if isinstance(own, nn.Module) else None


def along(own: nn.Module, player: str) -> Player:
    """A text encoder that learns in the turn of the network that listens to it, slowly: at the rate of a convolutional network, or by Muon,
    a small transformer soon says the same of every text."""
    return Player(own, along=player, optim=Optim(optimizer="adamw", lr=RATE))


def with_gaps(cond: Cond | None, share: float, rng: Draws) -> Cond | None:
    """Conditions of data, of whose texts our own encoder does not hear a share of the words, so that it learns of words and not whole
    captions by heart (Iyyer et al., "Deep unordered composition rivals syntactic methods for text classification", ACL 2015)."""
    if cond is None or "text" not in cond:
        return cond
    text = cond["text"]
    heard = spelling.heard(text.value, rng.uniforms("words", WORDS) >= share)
    return Cond(**{**{name: cond[name] for name in cond}, "text": text._replace(mask=heard)})


def texts_of(
    config: TextConfig, spec: DataSpec, seed: int, pooled: bool, folder: Path | None = None, spelt: bool = False
) -> Texts | None:
    """The text encoders for data with captions, our own freshly initialised, or as it has learned to read before; None for other data.

    Args:
        pooled: whether the network takes one vector of a text beside its tokens.
        folder: of the run.
        spelt: whether it takes the n-grams of a text.

    Raises:
        InputError: when a folder holds no text encoder, or none is named.
    """
    text = spec.conditions.get("text")
    if not isinstance(text, Text):
        return None
    if not config.encoders or len(set(config.encoders)) < len(config.encoders):
        named = ", ".join(config.encoders) or "none"
        raise InputError(f"text.encoders names each encoder once, {BYTES} or a folder, and one at least: got {named}")
    own = None
    if BYTES in config.encoders:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + 1)
            own = TextEncoder(config, text.length)
        if folder is not None:
            read_before(own, folder)
    return Texts(own, [ForeignText(name) for name in config.encoders if name != BYTES], pooled, spelt)


def reading(net: NetConfig, texts: Texts) -> NetConfig:
    """The settings of a network that is told what the text encoders make of a text.

    Raises:
        InputError: for a network that takes no text.
    """
    if not hasattr(net, "context"):
        able = ", ".join(name for name, kind in CONFIGS.items() if hasattr(kind, "context"))
        raise InputError(
            f"captions are for networks that attend to a text: use --net {able}, or leave data.captions out"
        )
    wide = {"vector": texts.vector} if texts.pooled else {}
    return replace(net, context=texts.width, length=max(1, texts.length), **wide)  # pyright: ignore[reportCallIssue]


def captioned(config: TextConfig, data: Dataset, samples: Dataset, folder: Path, plain: bool = False) -> Dataset:
    """The samples of a data set with captions, told these in all ways, or in the plain one; as they are where there are none.

    What foreign text encoders make of the captions is made once and kept in a run's folder.

    Args:
        data: pictures.
        samples: the same pictures, or codes of them.
    """
    found = captions.of(data)
    if found is None:
        return samples
    return called(config, found.plain() if plain else found, samples, folder)


def called(config: TextConfig, found: captions.Captions, samples: Dataset, folder: Path) -> Captioned:
    """Samples told their captions; what foreign text encoders make of these is made once and kept in a run's folder."""
    said = [text for several in found.texts for text in several]
    foreign = [ForeignText(name) for name in config.encoders if name != BYTES]
    return Captioned(samples, found, [each.features(said, inside(folder, WHERE)) for each in foreign])
