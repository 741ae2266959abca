"""What generators that draw in their own way share: whose label a sample has, drawing in batches, what training measures and shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from reverie.core.batch import Dataset
from reverie.core.condition import Cond, Conditions
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.generator import Generator
from reverie.core.noise import Seeds, Tape, listed, sample_seeds
from reverie.core.task import Moment, Preview, Task

ROWS, COLUMNS = 3, 8
"""Rows of samples that training shows, and of how many without classes."""

Draw = Callable[[Tape, Tensor | None, int], Tensor]
"""(where the noise comes from, labels (B,) or None, B) -> samples (B, …)."""


def labels_of(cond: Cond | None, conditions: Conditions, n: int, null: int | None = None) -> Tensor | None:
    """The label of each of ``n`` samples, (n,).

    Args:
        null: what stands for a label that is absent, of a model that can do without.

    Returns:
        None for a model without classes and without a null.

    Raises:
        InputError: when the model takes labels, has no null and is told none, or what it is told does not fit.
    """
    if cond is not None:
        cond.check(conditions)
    if cond is not None and "label" in cond:
        entry = cond.expand(n)["label"]
        if null is not None:
            return torch.where(entry.present, entry.value, null)
        if entry.present.all():
            return entry.value
    if null is not None:
        return torch.full((n,), null)
    if "label" in conditions:
        raise InputError(f"this model cannot draw without a label: give one of {conditions['label']}")
    return None


def count_of(n: int | None, cond: Cond | None, seed: Seeds) -> int:
    """How many are drawn: ``n``, or one for each condition or seed, else 1."""
    if n is not None:
        return n
    return max(1 if cond is None else len(cond), len(seed) if listed(seed) else 1)  # pyright: ignore[reportArgumentType]


def drawn(
    model: Generator,
    draw: Draw,
    n: int | None,
    cond: Cond | None,
    seed: Seeds,
    batch_size: int | None,
    *,
    null: int | None = None,
) -> Tensor:
    """Samples (n, …), at most ``batch_size`` at a time, float32 or wider.

    Raises:
        InputError: as :func:`labels_of`.
    """
    n = count_of(n, cond, seed)
    label, seeds = labels_of(cond, model.conditions, n, null), sample_seeds(seed, n)
    device = next(p.device for module in model.modules().values() for p in module.parameters())
    label, size = None if label is None else label.to(device), batch_size or max(1, n)
    parts = []
    for start in range(0, n, size):
        rows = slice(start, min(start + size, n))
        parts.append(draw(Tape(seeds[rows]), None if label is None else label[rows], rows.stop - rows.start))
    samples = torch.cat(parts)
    return samples.to(torch.promote_types(samples.dtype, torch.float32))


def columns(model: Generator, real: Dataset | None) -> Preview | None:
    """A row of real pictures and below it three of samples, a class a column below its name if there are classes."""
    if real is None or not len(real) or len(real.spec.shape) != 3:
        return None
    names: Sequence[str] = ()
    if "label" in model.conditions:
        labels = real.batch(range(len(real))).label
        assert labels is not None
        present = labels.unique()[:10]
        rows, cond = (
            torch.stack([(labels == label).nonzero()[0, 0] for label in present]),
            Cond(label=present.repeat(ROWS)),
        )
        names = [real.spec.classes[label] if real.spec.classes else str(label) for label in present.tolist()]
    else:
        rows, cond = torch.arange(min(COLUMNS, len(real))), None
    samples = model.sample(ROWS * len(rows), cond).cpu()
    return Preview(torch.cat([real.batch(rows).x, samples]), len(rows), names)


def dropped(label: Tensor | None, rng: Draws, share: float, null: int, like: Tensor) -> Tensor:
    """The labels of a batch, ``share`` of them the null; all of them without labels."""
    if label is None:
        return torch.full((len(like),), null, device=like.device)
    return torch.where((rng.uniform("drop") < share).to(label.device), null, label)


def validated(task: Task, held_out: Dataset | None) -> dict[str, float | list[float]]:
    """The means of the parts of a loss on at most 512 held-out pictures, under fixed draws; their sum is ``loss``."""
    if held_out is None or not len(held_out):
        return {}
    (player, side), n = next(iter(task.players.items())), min(512, len(held_out))
    device = next(side.module.parameters()).device
    parts: dict[str, float] = {}
    for start in range(0, n, 256):
        rows = range(start, min(start + 256, n))
        losses = task.loss(player, held_out.batch(rows).to(device), Draws(0, start, len(rows)), Moment(0, 0, 1))
        for key, value in losses.items():
            parts[key] = parts.get(key, 0.0) + value.sum().item() / n
    return {"loss": sum(parts.values()), **parts}
