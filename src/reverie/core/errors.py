"""The two errors a person meets. Both carry a message that says what was given, what was expected and what to do."""

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """Something that was given cannot be used; the command line prints the message and exits with 2."""


class RunError(RuntimeError):
    """Something failed while working; the command line prints the message and exits with 1."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for the choice closest to ``word``, or an empty string when nothing is close."""
    match = get_close_matches(str(word), list(choices), n=1, cutoff=0.5)
    return f" Did you mean {match[0]!r}?" if match else ""


def unknown(what: str, word: str, choices: Iterable[str]) -> InputError:
    """The error for a name that is not one of ``choices``: it lists them and names the nearest."""
    choices = sorted(choices)
    return InputError(f"unknown {what} {word!r}; there is: {', '.join(choices)}.{nearest(word, choices)}")
