"""What generators of all families share: which label each sample has, drawing in batches, and what training shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from reverie.core.batch import Dataset
from reverie.core.condition import Cond, Conditions
from reverie.core.errors import InputError
from reverie.core.generator import Generator
from reverie.core.noise import Seeds, Tape, listed, sample_seeds
from reverie.core.task import Preview

ROWS, COLUMNS = 3, 8
"""Rows of samples that training shows, and of how many without classes."""

Draw = Callable[[Tape, Tensor | None, int], Tensor]
"""(where the noise comes from, labels (B,) or None, B) -> samples (B, …)."""


def labels_of(cond: Cond | None, conditions: Conditions, n: int) -> Tensor | None:
    """The label of each of ``n`` samples, (n,); None for a model without classes.

    Raises:
        InputError: when the model takes labels and is told none, or what it is told does not fit.
    """
    if cond is not None:
        cond.check(conditions)
    if "label" not in conditions:
        return None
    if cond is None or "label" not in cond or not cond["label"].present.all():
        raise InputError(f"this model cannot draw without a label: give one of {conditions['label']}")
    return cond.expand(n)["label"].value


def count_of(n: int | None, cond: Cond | None, seed: Seeds) -> int:
    """How many are drawn: ``n``, or one for each condition or seed, else 1."""
    if n is not None:
        return n
    return max(1 if cond is None else len(cond), len(seed) if listed(seed) else 1)  # pyright: ignore[reportArgumentType]


def drawn(
    model: Generator, draw: Draw, n: int | None, cond: Cond | None, seed: Seeds, batch_size: int | None
) -> Tensor:
    """Samples (n, …), at most ``batch_size`` at a time.

    Raises:
        InputError: as :func:`labels_of`.
    """
    n = count_of(n, cond, seed)
    label, seeds = labels_of(cond, model.conditions, n), sample_seeds(seed, n)
    device = next(p.device for module in model.modules().values() for p in module.parameters())
    label = None if label is None else label.to(device)
    parts = [
        draw(Tape(seeds[start : start + size]), None if label is None else label[start : start + size], len(seeds[start : start + size]))
        for size in [batch_size or max(1, n)]
        for start in range(0, n, size)
    ]
    return torch.cat(parts)


def columns(model: Generator, real: Dataset) -> Preview | None:
    """A row of real pictures and below it three of samples, a class a column below its name if there are classes."""
    if not len(real) or len(real.spec.shape) != 3:
        return None
    names: Sequence[str] = ()
    if "label" in model.conditions:
        labels = real.batch(range(len(real))).label
        assert labels is not None
        present = labels.unique()[:10]
        rows, cond = torch.stack([(labels == label).nonzero()[0, 0] for label in present]), Cond(label=present.repeat(ROWS))
        names = [real.spec.classes[label] if real.spec.classes else str(label) for label in present.tolist()]
    else:
        rows, cond = torch.arange(min(COLUMNS, len(real))), None
    samples = model.sample(ROWS * len(rows), cond).cpu()
    return Preview(torch.cat([real.batch(rows).x, samples]), len(rows), names)
