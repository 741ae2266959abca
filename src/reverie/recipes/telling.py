"""Captions of pictures as a generator that reads texts is told them."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from reverie.core.condition import Cond
from reverie.core.conditioner import conditioner_of
from reverie.core.generator import Generator
from reverie.data import ImageSet


@torch.no_grad()
def told(generator: Generator, images: ImageSet, rows: Iterable[int]) -> Cond | None:
    """The plain captions of pictures, nothing where a picture has none; None where a generator or a data set knows no captions."""
    if images.captions is None or "text" not in generator.conditions:
        return None
    texts = [images.captions.say(row) for row in rows]
    cond = conditioner_of(generator)(text=[text or "nothing" for text in texts])
    present = torch.tensor([bool(text) for text in texts], device=cond["text"].present.device)
    return cond.drop(present)
