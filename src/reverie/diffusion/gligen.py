"""Teaching a diffusion model that stays as it is to read boxes, and drawing by them (see :mod:`reverie.nets.grounding`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reverie.core.batch import Around, Batch, Dataset, DataSpec
from reverie.core.call import Call
from reverie.core.condition import Cond, Tokens
from reverie.core.conditioner import conditioner_of
from reverie.core.denoiser import Denoiser, NetDenoiser, Told
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.task import Player
from reverie.core.tensors import combine
from reverie.data import ImageSet
from reverie.data.maps import BOXES, Boxed
from reverie.diffusion.beside import Beside, shown
from reverie.diffusion.building import sampler, times, unseen
from reverie.diffusion.conditioned import GligenConfig
from reverie.diffusion.config import SampleConfig
from reverie.diffusion.control import check_base
from reverie.diffusion.denoising import Denoising
from reverie.diffusion.showing import COLUMNS
from reverie.nets import taps
from reverie.nets.controlnet import fingerprint
from reverie.nets.grounding import Boxes, Grounded, Grounding
from reverie.solve import Sampler

Thing = tuple[str | int, float, float, float, float]
"""What is to be in a box, words or the number of a class, and its top, left, bottom and right in shares of height and width."""


def grounded(
    denoise: Denoiser, net: Grounding, boxes: Boxes, interval: tuple[float, float] = (-math.inf, math.inf)
) -> Denoiser:
    """The denoiser that reads boxes. Guide the result, as one drawn by a hint: then both branches read them.

    Args:
        denoise: the model that ``net`` was trained on.
        net: what reads them.
        boxes: of n samples, or of one for all.
        interval: the logsnr between which they are read; the paper reads them at the beginning of drawing alone, where the logsnr is low.

    Raises:
        InputError: for a model of other weights, (when called) for the boxes of another number of samples.
    """
    check_base(denoise, net.base, "reader of boxes")
    return Told(denoise, partial(Call.changed, change=Grounded(net, taps.find(denoise, net.sites), boxes, interval)))


class Gligen(Beside[Grounding]):
    """What a run of the task "gligen" gives: ``rv.sample(gligen([("heart", 0.1, 0.1, 0.6, 0.6)]), 16, cond)``."""

    def __call__(
        self,
        things: Sequence[Thing],
        interval: tuple[float, float] = (-math.inf, math.inf),
        on: Denoiser | None = None,
    ) -> Denoiser:
        """:func:`grounded` by the same boxes for all samples, words for a model that reads texts, numbers of classes for others.

        Raises:
            InputError: for words where it was taught numbers, or the other way round; a class that there is not, or no box.
        """
        if not things:
            raise InputError("boxes say where things are to be: give one at least")
        words = [what for what, *_ in things if isinstance(what, str)]
        known = 0 if self.net.classes is None else self.net.classes.num_embeddings
        if known and (words or not all(0 <= what < known for what, *_ in things)):  # pyright: ignore[reportOperatorIssue]
            raise InputError(
                f"this model was taught classes of boxes, 0 to {known - 1}: got {[what for what, *_ in things]}"
            )
        if not known and len(words) < len(things):
            raise InputError(f"this model is told in words what a box is to hold: got {[what for what, *_ in things]}")
        corners = torch.tensor([box for _, *box in things], dtype=torch.float32, device=self.base.device)
        if not known:
            table, numbers = phrases(self.base, words), range(len(words))
        else:
            table, numbers = None, [what for what, *_ in things]
        rows = torch.cat([torch.tensor(numbers, device=corners.device)[:, None].float(), corners], 1)
        return grounded(self.base if on is None else on, self.net, self.boxes(rows[None], table), interval)

    def boxes(self, rows: Tensor, table: Tensor | None) -> Boxes:
        """Of rows (B, M, 5), the number of a class and its corners, −1 where there is no box; with what each class is said by, (K, D),
        where that is not learned."""
        number, there = rows[..., 0].long().clamp(min=0), rows[..., 0] >= 0
        what = table[number] if self.net.classes is None and table is not None else self.net.classes(number)  # pyright: ignore
        return Boxes(what, rows[..., 1:], there)


@torch.no_grad()
def phrases(denoise: NetDenoiser, texts: Sequence[str]) -> Tensor:
    """The mean token of each text, as the model's own encoder reads it: (n, D)."""
    read = conditioner_of(denoise)(text=list(texts))["text"]
    real = torch.ones(read.value.shape[:2], device=read.value.device) if read.mask is None else read.mask.float()
    return (read.value * real[..., None]).sum(1) / real.sum(1, keepdim=True)


class Placed(Around):
    """Pictures with, as ``extra["boxes"]``, their boxes (M, 5): the number of a class, top, left, bottom, right; −1 where there are fewer.

    Raises:
        InputError: for pictures without a table of boxes.
    """

    def __init__(self, data: ImageSet) -> None:
        if not isinstance(data.layout, Boxed):
            raise InputError("gligen learns from boxes: name a table of them, --data.maps boxes.json")
        super().__init__(replace(data, layout=None))
        self.classes, places = data.layout.classes, data.layout.places
        self.rows = torch.full((len(places), max(map(len, places), default=0) or 1, 5), -1.0)
        for row, several in zip(self.rows, places, strict=True):
            for i, place in enumerate(several):
                row[i] = torch.tensor(place)

    def batch(self, positions: Tensor | Sequence[int]) -> Batch:
        rows = torch.as_tensor(positions, dtype=torch.int64)
        batch = self.data.batch(rows)
        return Batch(batch.x, batch.cond, {**batch.extra, BOXES: self.rows[rows]})


class Reading(Denoising):
    """The denoising task of a frozen model that is told where things are: what learns is what reads the boxes.

    Args:
        model: both.
        times: the density of t.
        table: what each class of boxes is said by, (K, D), where that is not learned.
        others: as of :class:`~reverie.diffusion.denoising.Denoising`.
    """

    def __init__(self, model: Gligen, times: Any, table: Tensor | None = None, **others: Any) -> None:
        super().__init__(model.base, times, **others)
        self.model, self.table = model, table
        self.places = taps.find(model.base, model.net.sites)
        base = Player(model.base.net, optim=None, average=False, train=False, saved="none")
        self.players = {"gligen": Player(model.net), "base": base}

    def batch_errors(self, batch: Batch, t: Tensor, rng: Draws, cond: Cond | None) -> Tensor:
        x0, noise = self.pair(batch.x, rng)
        point = self.denoise.schedule.point(t).align(x0)
        table = None if self.table is None else self.table.to(x0.device)
        change = Grounded(self.model.net, self.places, self.model.boxes(batch.extra[BOXES], table))
        x = combine((point.alpha, point.sigma), (x0, noise))
        return self.squared(x0, noise, self.denoise(x, point, cond, Call().changed(change)))


def reader(base: NetDenoiser, width: int, classes: int, seed: int) -> Grounding:
    """A fresh reader of boxes behind all blocks of a model that attend.

    Args:
        width: of the token of a box.
        classes: of boxes, for a model that reads no texts.

    Raises:
        InputError: for a network without attention.
    """
    known = taps.find(base, taps.sites(base))
    attending = [name for name, place in known.items() if place.attention]
    blocks = [name for name, place in known.items() if f"{name}.in" in known and not place.attention]
    sites = [name for name in blocks if any(each.startswith(f"{name}.") for each in attending)]
    sites = [name for name in sites if not any(name.startswith(f"{other}.") for other in sites)]
    if not sites:
        raise InputError(
            "boxes are read where a network attends, and this one does nowhere: train one with --net.attention"
        )
    with torch.no_grad():
        blank = torch.zeros(1, *base.shape, device=base.device, dtype=base.dtype)
        seen = taps.features(base, sites, blank, 0.5)
    widths = {site: seen[site].shape[1 if seen[site].ndim == 4 else -1] for site in sites}
    text = base.conditions.get("text")
    what, learned = (text.dim, 0) if isinstance(text, Tokens) else (width, classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Grounding(widths, what, width, learned, fingerprint(base.net))


def build(config: GligenConfig, spec: DataSpec, classes: int, seed: int, folder: Path | None) -> Gligen:
    """The base and a fresh reader of boxes, of so many classes."""
    base = config.teaching(spec, seed, folder)
    return Gligen(base, reader(base, config.width, classes, seed))


def task(
    config: GligenConfig, model: Gligen, data: Dataset, held_out: Dataset, sample: SampleConfig, seed: int
) -> Reading:
    """What trains it, and shows some pictures and below them what is drawn by their boxes."""
    seen = held_out if len(held_out) else data
    examples = seen.batch(range(min(COLUMNS, len(seen))))
    inner: Any = data
    while not isinstance(inner, Placed):
        inner = inner.data
    table = phrases(model.base, inner.classes) if model.net.classes is None else None

    def draws(n: int) -> Sampler:
        rows = examples.extra[BOXES][:n].to(model.base.device)
        boxes = model.boxes(rows, None if table is None else table.to(rows.device))
        return sampler(config.denoising, grounded(model.base, model.net, boxes), sample)

    own = config.denoising
    return Reading(
        model,
        times(own, model.base.schedule),
        table,
        drop=config.drop,
        loss_kind=own.loss_kind,
        held_out=unseen(held_out),
        show=shown(draws, (examples.x,), examples.cond, seed),
    )
