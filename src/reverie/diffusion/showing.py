"""What a training run draws of itself on the way, within a budget of pixels and of time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from reverie.core.batch import Dataset
from reverie.core.condition import Cond
from reverie.core.denoiser import NetDenoiser
from reverie.core.generator import Frame, Generator
from reverie.core.progress import Progress
from reverie.core.space import Identity, Space
from reverie.core.task import Preview
from reverie.data.captions import Captioned

PIXELS, SECONDS = 4_000_000, 5.0
"""Pixels of a preview, and seconds that drawing it may take: there are fewer pictures where these are too many, and one at least."""
COLUMNS, ROWS = 8, 3
"""Pictures in a row without classes, and rows of samples."""
MOST = 10
"""Classes that are shown."""


class _Slow(Exception):
    """The first step has taken so long that only so many pictures fit the time."""

    def __init__(self, fitting: int) -> None:
        self.fitting = fitting


def shown(
    data: Dataset, draws: Callable[[NetDenoiser], Generator], seed: int, space: Space | None = None
) -> Callable[[NetDenoiser], Preview]:
    """A row of real pictures and up to :data:`ROWS` of samples on fixed noise, a class a column below its name if there are classes, a
    caption a column if there are captions.

    Args:
        data: pictures, perhaps with labels or captions; or codes.
        draws: what draws with a denoiser.
        seed: of the noise.
        space: that of the codes, which are shown as the pictures that they stand for.
    """
    labels: Tensor | None = getattr(data, "labels", None) if "label" in data.spec.conditions else None
    space = space or Identity()
    *_, height, width = space.data_shape(data.spec.shape)
    room = max(1, PIXELS // (height * width))
    names: Sequence[str] = ()
    told: Cond | None = None
    if isinstance(data, Captioned):
        columns = min(COLUMNS, room, len(data.captions))
        samples = torch.linspace(0, len(data.captions) - 1, columns).long()
        names, rows = [data.captions.say(int(i)) for i in samples], samples * data.captions.ways
        told = data.batch(rows.repeat(ROWS)).cond
    elif labels is None:
        columns = min(COLUMNS, room)
        rows = torch.arange(min(columns, len(data)))
    else:
        present = labels.unique()[: min(MOST, room)]
        columns = len(present)
        names = [data.spec.classes[label] if data.spec.classes else str(label) for label in present.tolist()]
        rows = torch.stack([(labels == label).nonzero()[0, 0] for label in present])
        told = Cond(label=present.repeat(ROWS))
    if "image" in data.spec.conditions:
        told = data.batch(rows.repeat(ROWS)).cond
    count = columns * max(1, min(ROWS, room // columns - 1))
    with torch.no_grad():
        real = space.decode(data.batch(rows).x)

    def show(denoise: NetDenoiser) -> Preview:
        draw, cond = draws(denoise), told
        if cond is not None and isinstance(data, Captioned) and denoise.told is not None:
            with torch.no_grad():
                cond = denoise.told(cond.to(denoise.device))
        made = drawn(lambda n: draw, count, None if cond is None else cond.index(slice(count)), seed)
        blank = torch.ones(columns - len(real), *real.shape[1:])
        return Preview(torch.cat([real, blank, made.cpu()]), columns, names)

    return show


def drawn(draws: Callable[[int], Generator], n: int, cond: Cond | None, seed: int) -> Tensor:
    """n samples, or the first ones where all would take longer than :data:`SECONDS`; ``cond`` is of n, ``draws(n)`` draws so many."""
    while True:
        try:
            return _drawn(draws(n), n, None if cond is None else cond.index(slice(n)), seed)
        except _Slow as slow:
            n = slow.fitting


def _drawn(draw: Generator, n: int, cond: Cond | None, seed: int) -> Tensor:
    """n samples.

    Raises:
        _Slow: when by the first step they would take too long, unless it is one.
    """
    begun = time.perf_counter()
    with Progress("drawing samples", n, "steps") as bar:

        def look(frame: Frame) -> None:
            bar.total = n * frame.total
            wanted = (time.perf_counter() - begun) * bar.total / frame.count
            if bar.done == 0 and n > 1 and wanted > SECONDS:
                raise _Slow(max(1, min(n - 1, int(n * SECONDS / wanted))))
            bar.advance(frame.count)

        return draw.sample(n, cond, seed=seed, on_step=look)
