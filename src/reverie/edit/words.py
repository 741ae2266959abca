"""Words of a prompt and their tokens, and which token of one prompt stands for which of another (Hertz et al. 2023, section 3.2)."""

from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

import torch
from torch import Tensor

from reverie.core.conditioner import Conditioner
from reverie.core.errors import InputError, nearest


class Word(NamedTuple):
    """A word and the positions of its tokens."""

    text: str
    tokens: tuple[int, ...]


class Alignment(NamedTuple):
    """Which of the source's maps the edit takes.

    Args:
        mapper: (S, E), the share of the source's token s in the edit's token e.
        own: (E,), 1 where a token of the edit has no counterpart and keeps its own map.
    """

    mapper: Tensor
    own: Tensor

    def maps(self, source: Tensor, edit: Tensor) -> Tensor:
        """Maps (…, S) of the source and (…, E) of the edit as those that the edit is given, (…, E)."""
        return source @ self.mapper.to(source) + self.own.to(edit) * edit


def words(prompt: str | Sequence[str], conditioner: Conditioner | None = None) -> list[Word]:
    """The words of a prompt with their tokens; of a list of words each is one token, from the first on.

    Args:
        prompt: a text, or its words.
        conditioner: the model's, for a text.

    Raises:
        InputError: for a text without a conditioner that reads texts.
    """
    if not isinstance(prompt, str):
        return [Word(word, (i,)) for i, word in enumerate(prompt)]
    if conditioner is None:
        raise InputError(
            f"the tokens of a text are its model's: give conditioner=, or a list of words in place of {prompt!r}"
        )
    each, found = prompt.split(), conditioner.words(prompt)
    seen: dict[str, int] = {}
    result = []
    for word in each:
        tokens, k = found[word], seen.get(word, 0)
        size = len(tokens) // each.count(word)  # a word that stands there twice has the tokens of both
        result.append(Word(word, tokens[k * size : (k + 1) * size]))
        seen[word] = k + 1
    return result


def tokens_of(prompt: Sequence[Word], wanted: str) -> tuple[int, ...]:
    """The positions of a word's tokens, of all its occurrences.

    Raises:
        InputError: for a word that is not in the prompt; it names those that are, with their tokens.
    """
    found = tuple(i for word in prompt if word.text == wanted for i in word.tokens)
    if not found:
        there = ", ".join(f"{word.text} ({', '.join(map(str, word.tokens))})" for word in prompt)
        raise InputError(
            f"the word {wanted!r} is not in the prompt; its words with their tokens are: {there}."
            f"{nearest(wanted, [word.text for word in prompt])}"
        )
    return found


def align(
    source: Sequence[Word], edit: Sequence[Word], length: int | tuple[int, int] | None = None, replace: bool = False
) -> Alignment:
    """Align two prompts by their words.

    Tokens before the first word (the start of the text) and after the last one (its end, padding) stand for each other in order.

    Args:
        source, edit: as :func:`words` gives them.
        length: tokens of both conditions, or of each; as far as the words reach without.
        replace: words that were exchanged stand for each other ("replace" of the paper); otherwise they keep their own maps ("refine").

    Raises:
        InputError: with ``replace`` for prompts of different numbers of words.
    """
    if replace and len(source) != len(edit):
        raise InputError(
            f"replace exchanges words one for one: got {len(source)} and {len(edit)} words. "
            "Leave replace out to keep the maps of what both prompts have"
        )
    ends = tuple(max((i for word in prompt for i in word.tokens), default=-1) + 1 for prompt in (source, edit))
    s, e = ends if length is None else (length, length) if isinstance(length, int) else length
    if s < ends[0] or e < ends[1]:
        raise InputError(
            f"the words have tokens up to {ends[0]} and {ends[1]}, the conditions {s} and {e}: give theirs"
        )
    mapper = torch.zeros(s, e)
    first = min((word.tokens[0] for prompt in (source, edit) for word in prompt[:1] if word.tokens), default=0)
    for i in range(first):
        mapper[i, i] = 1.0
    for i in range(min(s - ends[0], e - ends[1])):
        mapper[ends[0] + i, ends[1] + i] = 1.0
    for kind, a, b, c, d in SequenceMatcher(
        None, [w.text for w in source], [w.text for w in edit], False
    ).get_opcodes():
        if kind == "equal" or (replace and b - a == d - c):
            for one, other in zip(source[a:b], edit[c:d], strict=True):
                _pair(mapper, one.tokens, other.tokens)
    return Alignment(mapper, (mapper.sum(0) == 0).float())


def aligned(source: str, edit: str, conditioner: Conditioner, replace: bool = False) -> Alignment:
    """Two texts aligned as a model reads them, of one batch: the shorter is padded to the longer.

    Args:
        source, edit: the texts.
        conditioner: the model's.
        replace: as of :func:`align`.

    Raises:
        InputError: as :func:`align`.
    """
    length = max(conditioner(text)["text"].value.shape[1] for text in (source, edit))
    return align(words(source, conditioner), words(edit, conditioner), length, replace)


def same(length: int) -> Alignment:
    """Every token stands for itself."""
    return Alignment(torch.eye(length), torch.zeros(length))


def _pair(mapper: Tensor, one: Sequence[int], other: Sequence[int]) -> None:
    """The tokens of two words: one for one, or all of one shared among those of the other."""
    if len(one) == len(other):
        for i, j in zip(one, other, strict=True):
            mapper[i, j] = 1.0
        return
    for i in one:
        for j in other:
            mapper[i, j] = 1.0 / len(other)
