"""Standard output and error that end no work: a full disk, a closed pipe or a poor alphabet costs the words, not what was done."""

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO


class Steady:
    """A text stream whose first failure is kept and not raised, and which escapes the characters that its encoding lacks.

    Args:
        stream: None for one that was closed when the process began, which takes everything and shows nothing.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.stream = open(os.devnull, "w", encoding="utf-8") if stream is None else stream  # noqa: SIM115
        self.failure: Exception | None = None

    def write(self, text: str) -> int:
        encoding = self.stream.encoding or "utf-8"
        shown = text.encode(encoding, "backslashreplace").decode(encoding)
        self._try(lambda: self.stream.write(shown))
        return len(text)

    def flush(self) -> None:
        self._try(self.stream.flush)

    def _try(self, act: Callable[[], object]) -> None:
        if self.failure is not None:
            return
        try:
            act()
        except (OSError, ValueError) as error:  # ValueError: it was closed
            self.failure = error
            with suppress(OSError, ValueError):  # what is still buffered must not fail again when the process ends
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def fill_descriptors() -> None:
    """Open the standard descriptors that are closed, so that no file of ours gets their numbers."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
