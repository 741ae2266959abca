"""Counting what a run costs: rows through the network, and rows back through it.

Denoisers that are not made of others say what they evaluate with :func:`evaluated`; it costs nothing while nobody counts.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor


@dataclass
class Count:
    """``evaluations`` and ``backwards``: rows (samples) of all passes forward and back since counting began."""

    evaluations: int = 0
    backwards: int = 0


_open: list[Count] = []


@contextmanager
def counting() -> Iterator[Count]:
    """Count every pass until the block ends; blocks nest."""
    count = Count()
    _open.append(count)
    try:
        yield count
    finally:
        _open.remove(count)


def evaluated(out: Tensor, forward: bool = True) -> Tensor:
    """Note a pass that gave ``out`` (B, …), and each later pass back through it; returns ``out``.

    Args:
        out: what the network gave.
        forward: False for a network that is no denoiser, such as a classifier: only passes back through it count.
    """
    for count in _open:
        count.evaluations += len(out) if forward else 0
        if out.requires_grad:
            out.register_hook(lambda gradient, count=count: _returned(count, gradient))
    return out


def _returned(count: Count, gradient: Tensor) -> None:
    count.backwards += len(gradient)
