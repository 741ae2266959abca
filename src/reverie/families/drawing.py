"""What generators that draw in their own way share: what a sample is told, drawing in batches, what training measures and shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from reverie.core.batch import Batch, Dataset
from reverie.core.condition import Cond, Conditions, Tokens
from reverie.core.conditioner import Conditioner
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.generator import Generator
from reverie.core.noise import Seeds, Tape, listed, sample_seeds
from reverie.core.task import Moment, Player, Preview, Task
from reverie.data import captions
from reverie.diffusion.texts import Texts, along

ROWS, COLUMNS = 3, 8
"""Rows of samples that training shows, and of how many without classes."""

Draw = Callable[[Tape, Cond | None, int], Tensor]
"""(where the noise comes from, what B samples are told, B) -> samples (B, …)."""


class Listening(Generator):
    """A generator that is told a class or a text, or nothing where these were dropped in training.

    Args:
        conditions: of the data: a label, a text, or neither.
        classes: names of the classes.
        texts: its text encoders, for data with captions.
        unlabelled: whether it also draws without.
    """

    def __init__(
        self, conditions: Conditions, classes: Sequence[str], texts: Texts | None = None, unlabelled: bool = False
    ) -> None:
        self.conditions = {name: conditions[name] for name in ("label",) if name in conditions}
        if texts is not None:
            self.conditions = {"text": Tokens(texts.width, max(1, texts.length))}
        self.texts, self.unlabelled = texts, unlabelled
        self.conditioner = Conditioner(self.conditions, classes, texts)

    def heard(self, batch: Batch, rng: Draws | None = None, drop: float = 0.0) -> Cond | None:
        """What the network is told of a batch of data, of a share ``drop`` of it nothing."""
        if batch.cond is None or not self.conditions:
            return None
        cond = batch.cond if self.texts is None else self.texts.told(batch.cond)
        return cond if rng is None or not drop else cond.drop((rng.uniform("drop") >= drop).to(batch.x.device))

    def condition(self, cond: Cond | None, n: int) -> Cond | None:
        """What ``n`` samples are told, on the device of the network: see :func:`told`."""
        cond = told(cond, self.conditions, n, self.unlabelled)
        return None if cond is None else cond.to(_device(self))

    def players(self, net: torch.nn.Module) -> dict[str, Player]:
        """The network, and beside it the text encoder that learns with it."""
        own = None if self.texts is None else self.texts.own
        return {"net": Player(net)} if own is None else {"net": Player(net), "text": along(own, "net")}

    def modules_beside(self) -> dict[str, torch.nn.Module]:
        """The text encoder that learned with the network, if there is one."""
        return {} if self.texts is None or self.texts.own is None else {"text": self.texts.own}


def told(cond: Cond | None, conditions: Conditions, n: int, optional: bool = False) -> Cond | None:
    """What each of ``n`` samples is told.

    Args:
        optional: whether the model can do without.

    Raises:
        InputError: when it cannot and is told nothing, or what it is told does not fit.
    """
    if cond is not None:
        cond.check(conditions)
        cond = cond.expand(n)
    for name, spec in conditions.items():
        if not optional and not (cond is not None and name in cond and bool(cond[name].present.all())):
            raise InputError(f"this model cannot draw without a {name}: give one of {spec}")
    return cond


def labels_of(cond: Cond | None, conditions: Conditions, n: int) -> Tensor | None:
    """The label of each of ``n`` samples, (n,); None for a model without classes.

    Raises:
        InputError: as :func:`told`.
    """
    cond = told(cond, conditions, n)
    return None if cond is None or "label" not in cond else cond["label"].value


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
    optional: bool = False,
) -> Tensor:
    """Samples (n, …), at most ``batch_size`` at a time, float32 or wider.

    Raises:
        InputError: as :func:`told`.
    """
    n = count_of(n, cond, seed)
    cond, seeds = told(cond, model.conditions, n, optional), sample_seeds(seed, n)
    cond, size = None if cond is None else cond.to(_device(model)), batch_size or max(1, n)
    parts = []
    for start in range(0, n, size):
        rows = slice(start, min(start + size, n))
        parts.append(draw(Tape(seeds[rows]), None if cond is None else cond.index(rows), rows.stop - rows.start))
    samples = torch.cat(parts)
    return samples.to(torch.promote_types(samples.dtype, torch.float32))


@torch.no_grad()
def columns(model: Generator, real: Dataset | None) -> Preview | None:
    """A row of real pictures and below it three of samples, a class or a caption a column below it if there are any."""
    if real is None or not len(real) or len(real.spec.shape) != 3:
        return None
    names: Sequence[str] = ()
    if isinstance(model, Listening) and model.texts is not None:
        said = captions.of(real)
        assert said is not None
        rows = torch.tensor([row for row in range(len(real)) if said.say(row)][:COLUMNS], dtype=torch.int64)
        names, cond = [said.say(row) for row in rows.tolist()], model.heard(real.batch(rows.repeat(ROWS)))
    elif "label" in model.conditions:
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


def _device(model: Generator) -> torch.device:
    return next(p.device for module in model.modules().values() for p in module.parameters())


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
