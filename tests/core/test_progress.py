"""Bars of long work."""

import io
import sys

import reverie.core.progress as progress
from reverie.core.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_one_inside_another_is_a_line_below_it(monkeypatch):
    """Rich holds one display at a time: the inner one joins the outer's and leaves it as it was."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    now = iter(range(1000))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(now)) * 2.0)
    with Progress("training", 10) as outer:
        outer.advance()
        display = outer._bar
        with Progress("drawing", 4) as inner:
            inner.advance(2)
            assert inner._bar is display and [task.description for task in display.tasks] == ["training", "drawing"]
        assert [task.description for task in display.tasks] == ["training"] and display.live.is_started
        outer.advance()
        assert display.tasks[0].completed == 2
    assert not display.live.is_started
    with Progress("another", 3) as alone:
        alone.advance()
        assert alone._bar is not display and alone._bar.live.is_started
