"""Texts as the bytes they are written in, which need no vocabulary (Xue et al., "ByT5", TACL 2022).

A text is read without regard to capitals and to how its words are spaced. Token 0 is padding, token 1 begins each text, and token b + 2 is
the byte b of its UTF-8. Words that were learned besides, such as <mine>, have tokens of their own behind those.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

PADDING, BEGIN, SHIFT = 0, 1, 2
VOCABULARY = 256 + SHIFT
GRAMS, WIDTH, SIZES = "grams", 1024, (2, 3, 4)
"""The condition that holds a text's n-grams, the coordinates that these are hashed to, and their lengths."""

Learned = Mapping[str, Sequence[int]]
"""Words that were learned, as they are written, with the tokens of each, of :data:`VOCABULARY` and more."""


def spelled(texts: Sequence[str], length: int, learned: Learned | None = None) -> Tensor:
    """The tokens of texts, (B, L) int64, padded to the longest; of a text that has more than ``length`` the first are kept."""
    rows = [[BEGIN, *_numbers(text, length, learned or {})] for text in texts]
    longest = max(map(len, rows), default=1)
    return torch.tensor([row + [PADDING] * (longest - len(row)) for row in rows], dtype=torch.int64).view(-1, longest)


def grams(tokens: Tensor) -> Tensor:
    """What a text is spelled with: its n-grams of 2 to 4 bytes, added up in hashed coordinates with hashed signs, so that products of two
    texts estimate how many they share (Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", ICML 2009).

    Args:
        tokens: (B, L) int64, as :func:`spelled` makes them; n-grams with a learned word or padding are left out.

    Returns:
        (B, WIDTH) float32, of length 1; zeros for a text without letters.
    """
    found = torch.zeros(len(tokens), WIDTH, device=tokens.device)
    for size in (size for size in SIZES if size <= tokens.shape[1]):
        window = tokens.unfold(1, size, 1)
        code = torch.full_like(window[..., 0], size)
        for token in window.unbind(-1):
            code = (code * 1_000_003 + token) % (2**31 - 1)
        code = code * 2_654_435_761 % (2**32 - 5)
        real = ((window > PADDING) & (window < VOCABULARY)).all(-1)
        found.scatter_add_(1, code % WIDTH, real * (1.0 - 2.0 * (code // WIDTH % 2)))
    return torch.nn.functional.normalize(found, dim=1)


def heard(tokens: Tensor, words: Tensor) -> Tensor:
    """Which tokens are of words that are heard, (B, L), where ``words`` (B, W) says which of a text's words these are.

    The token that begins a text is; words behind the last of ``words`` have its fate.
    """
    word = (tokens == ord(" ") + SHIFT).cumsum(1).clamp(max=words.shape[1] - 1)
    return (tokens != PADDING) & (words.to(tokens.device).gather(1, word) | (tokens == BEGIN))


def cut(text: str, length: int) -> bytes:
    """The bytes of a text that fit behind the first token, whole letters only."""
    return bytes(number - SHIFT for number in _numbers(text, length, {}))


def count(text: str, learned: Learned | None = None) -> int:
    """The tokens of a text, with the one that begins it."""
    return 1 + sum(map(len, _parts(text, learned or {})))


def words(text: str, length: int, learned: Learned | None = None) -> dict[str, tuple[int, ...]]:
    """The positions of each word of a text among its first ``length`` tokens; a word that comes twice has those of both."""
    found: dict[str, tuple[int, ...]] = {}
    kept, place = 1 + len(_numbers(text, length, learned or {})), 1
    for word in text.split():
        end = place + count(word, learned) - 1
        found[word] = (*found.get(word, ()), *range(place, min(end, kept)))
        place = end + 1
    return found


def _numbers(text: str, length: int, learned: Learned) -> list[int]:
    """The tokens that fit behind the first one, whole letters and whole learned words only."""
    found: list[int] = []
    for part in _parts(text, learned):
        left = length - 1 - len(found)
        if isinstance(part, bytes):
            kept = part if len(part) <= left else part[:left].decode("utf-8", "ignore").encode()
            found += [byte + SHIFT for byte in kept]
        elif len(part) <= left:
            found += part
        if len(part) > left:
            break
    return found


def _parts(text: str, learned: Learned) -> list[bytes | Sequence[int]]:
    """The bytes between learned words, and the tokens of these."""
    if not learned:
        return [_written(text)]
    pieces = re.split(f"({'|'.join(map(re.escape, learned))})", " ".join(text.split()))
    return [learned[piece] if piece in learned else piece.lower().encode("utf-8", "replace") for piece in pieces]


def _written(text: str) -> bytes:
    return " ".join(text.split()).lower().encode("utf-8", "replace")
