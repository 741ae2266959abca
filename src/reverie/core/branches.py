"""Branches: a batch may hold several named copies of the same samples, branch-major: first all of one branch, then all of the next.

Guidance evaluates ("null", "cond") this way, editing ("source", "edit"). Whoever looks inside a network (taps, attention editing) learns
here which branches the batch holds. Samples never mix, branches may. While nobody watches, naming costs nothing.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

_names: ContextVar[tuple[str, ...]] = ContextVar("branches", default=())
_watchers: list[None] = []


def names() -> tuple[str, ...]:
    """The branches of the batch under evaluation, in the order of its leading axis; () outside of any."""
    return _names.get()


@contextmanager
def watched() -> Iterator[None]:
    """Keep the names of branches until the block ends."""
    _watchers.append(None)
    try:
        yield
    finally:
        _watchers.pop()


def named(branches: Sequence[str]) -> AbstractContextManager[None]:
    """Evaluate a batch made of these branches. Inside others, each name joins theirs as "outer/inner", the inner axis leading."""
    return _named(branches) if _watchers else nullcontext()


@contextmanager
def _named(branches: Sequence[str]) -> Iterator[None]:
    outer = _names.get()
    token = _names.set(tuple(f"{o}/{b}" for b in branches for o in outer) if outer else tuple(branches))
    try:
        yield
    finally:
        _names.reset(token)
