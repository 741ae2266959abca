"""Texts as the bytes they are written in, which need no vocabulary (Xue et al., "ByT5", TACL 2022).

A text is read without regard to capitals and to how its words are spaced. Token 0 is padding, token 1 begins each text, and token b + 2 is
the byte b of its UTF-8.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

PADDING, BEGIN, SHIFT = 0, 1, 2
VOCABULARY = 256 + SHIFT


def spelled(texts: Sequence[str], length: int) -> Tensor:
    """The tokens of texts, (B, L) int64, padded to the longest; of a text that has more than ``length`` the first are kept."""
    rows = [[BEGIN, *(byte + SHIFT for byte in cut(text, length))] for text in texts]
    longest = max(map(len, rows), default=1)
    return torch.tensor([row + [PADDING] * (longest - len(row)) for row in rows], dtype=torch.int64).view(-1, longest)


def cut(text: str, length: int) -> bytes:
    """The bytes of a text that fit behind the first token, whole letters only."""
    written = _written(text)
    if len(written) < length:
        return written
    return written[: length - 1].decode("utf-8", "ignore").encode()


def count(text: str) -> int:
    """The tokens of a text, with the one that begins it."""
    return 1 + len(_written(text))


def words(text: str, length: int) -> dict[str, tuple[int, ...]]:
    """The positions of each word of a text among its first ``length`` tokens; a word that comes twice has those of both."""
    found: dict[str, tuple[int, ...]] = {}
    kept, place = 1 + len(cut(text, length)), 1
    for word in text.split():
        end = place + len(_written(word))
        found[word] = (*found.get(word, ()), *range(place, min(end, kept)))
        place = end + 1
    return found


def _written(text: str) -> bytes:
    return " ".join(text.split()).lower().encode("utf-8", "replace")
