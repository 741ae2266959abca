"""Progress of long work: nothing in the first second, then a bar with rate and time left, or plain lines without a terminal."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, TypeVar

T = TypeVar("T")


class Progress:
    """Count towards ``total``; ``advance`` as work is done. Use as a context manager. One inside another is a line below it.

    Args:
        label: what is being done.
        total: how many units there are; 0 where nobody knows.
        unit: the name of one, for the rate.
        every: seconds between plain lines when there is no terminal.
    """

    _live: ClassVar[Any] = None

    def __init__(self, label: str, total: int, unit: str = "it", every: float = 15.0) -> None:
        self.label, self.total, self.unit, self.every = label, total, unit, every
        self.done, self.note, self._bar, self._task, self._owns = 0, "", None, None, False
        self._start = self._last = time.monotonic()
        self._initial = 0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None and self._owns:
            self._bar.stop()
            Progress._live = None
        elif self._bar is not None:
            self._bar.remove_task(self._task)  # pyright: ignore[reportArgumentType]

    def resume(self, done: int) -> None:
        """Start from ``done`` units that an earlier process did; they do not count in the rate."""
        self.done = self._initial = done

    def advance(self, n: int = 1, note: str | None = None) -> None:
        """``n`` more units are done; ``note`` is shown behind the bar."""
        self.done += n
        self.note = self.note if note is None else note
        now = time.monotonic()
        if now - self._start < 1.0:
            return
        if sys.stderr.isatty():
            self._draw()
        elif now - self._last >= self.every:
            self._last = now
            rate = (self.done - self._initial) / (now - self._start)
            of, left = (f"/{self.total}", f", {(self.total - self.done) / rate:.0f} s left") if self.total else ("", "")
            line = f"{self.label}: {self.done}{of} {self.unit}, {rate:.1f} {self.unit}/s{left} {self.note}"
            print(line.rstrip(), file=sys.stderr, flush=True)

    def _draw(self) -> None:
        if self._bar is None and Progress._live is not None:
            self._bar = Progress._live
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
                TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
                console=Console(stderr=True), transient=False,
            )  # fmt: skip
            Progress._live, self._owns = self._bar, True
            self._bar.start()
        if self._task is None:
            self._task = self._bar.add_task(
                self.label, total=self.total or None, completed=self._initial, rate="", note=""
            )
        rate = (self.done - self._initial) / (time.monotonic() - self._start)
        self._bar.update(
            self._task, completed=self.done, total=self.total or None, rate=f"{rate:.1f} {self.unit}/s", note=self.note
        )  # pyright: ignore[reportArgumentType]


def track(items: Iterable[T], label: str, total: int, unit: str = "it") -> Iterator[T]:
    """Iterate with a :class:`Progress`."""
    with Progress(label, total, unit) as progress:
        for item in items:
            yield item
            progress.advance()
