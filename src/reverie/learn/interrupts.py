"""Ctrl-C and SIGTERM while training: heard between steps, and at once while nothing is at stake."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class _Broken(Exception):
    """What was under way has been left for an interrupt."""


class Interrupts:
    """Whether SIGINT or SIGTERM has come; a second Ctrl-C ends at once. Outside the main thread nothing is caught."""

    def __init__(self) -> None:
        self.heard, self.breaks = False, False

    @contextmanager
    def caught(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        old = {number: signal.signal(number, self.handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    def handle(self, number: int, frame: Any) -> None:
        if self.heard and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.heard = True
        if self.breaks:
            raise _Broken

    @contextmanager
    def breaking(self) -> Iterator[None]:
        """What is done inside is left at once when an interrupt comes."""
        try:
            self.breaks = True
            yield
        except _Broken:
            pass
        finally:
            self.breaks = False
