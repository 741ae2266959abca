"""What pictures are called, and what lies where in them, as a generator is told it."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from reverie.core.condition import Cond, Entry
from reverie.core.conditioner import conditioner_of
from reverie.core.generator import Generator
from reverie.data import ImageSet


@torch.no_grad()
def told(generator: Generator, images: ImageSet, rows: Iterable[int]) -> Cond | None:
    """The plain captions of pictures, nothing where a picture has none, and their maps, with their classes; None where a generator or a
    data set knows neither captions nor maps."""
    rows, told = list(rows), {}
    if images.captions is not None and "text" in generator.conditions:
        texts = [images.captions.say(row) for row in rows]
        cond = conditioner_of(generator)(text=[text or "nothing" for text in texts])
        cond = cond.drop(torch.tensor([bool(text) for text in texts], device=cond["text"].present.device))
        told = {name: cond[name] for name in cond}
    if images.layout is not None and "image" in generator.conditions:
        told["image"] = Entry.of(images.layout.maps(torch.tensor(rows)))
        if images.labels is not None and "label" in generator.conditions:
            told["label"] = Entry.of(images.labels[rows])
    return Cond(**told) if told else None
