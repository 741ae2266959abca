"""What is asked of a model that is told vectors: a text or a picture, by the model that makes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from reverie import guide
from reverie.core.condition import Cond
from reverie.core.errors import InputError
from reverie.core.generator import Generator
from reverie.core.task import TaskConfig
from reverie.diffusion.retrieving import look_of, model_of
from reverie.diffusion.unclip import best, told

PRIOR_SCALE = 2.0
"""Of the guidance of unCLIP's prior, as the page on it draws."""


@torch.no_grad()
def asked(
    task: TaskConfig,
    generator: Generator,
    texts: Sequence[str],
    picture: Tensor | None,
    n: int,
    load: Callable[[str], Any],
    prior: str | None = None,
    seed: int = 0,
) -> Cond:
    """The condition of ``n`` samples of a run of rdm or unclip.

    Args:
        task: of the run; it names what makes its vectors.
        generator: what draws.
        texts: dealt out in turn; of unclip, each sample has a draw of the prior of its own.
        picture: (C, H, W) in [−1, 1], in place of texts: the neighbours of its vector, or variations of it.
        n: how many.
        load: opens another run by its folder.
        prior: of unclip, with texts: the folder of a run of unclip-prior.
        seed: of the prior.

    Raises:
        InputError: for a task of another kind, a model that reads no texts, or texts without a prior.
    """
    embed, conditions = getattr(task, "embed", None), generator.conditions or {}
    if not embed or not {"query", "vector"} & set(conditions):
        raise InputError(
            f"--query is for models that are told vectors, of the tasks rdm and unclip: this is {task.name}"
        )
    if "query" in conditions and prior is not None:
        raise InputError("--prior is unclip's: a run of rdm finds neighbours of a text by itself")
    model = model_of(embed, load)
    if picture is not None:
        z = look_of(model)(picture[None]).float().cpu().expand(n, -1)
        return Cond(query=z) if "query" in conditions else Cond(vector=told(z))
    if not hasattr(model, "texts"):
        raise InputError(
            f"{embed}, which makes the vectors of this model, reads no texts: ask by a picture, --query FILE"
        )
    y = model.texts(list(texts)).float().cpu()[[i % len(texts) for i in range(n)]]
    if "query" in conditions:
        return Cond(query=y)
    if prior is None:
        raise InputError(
            "a decoder is told the vector of a picture, which a prior draws for a text: give --prior RUN, of unclip-prior"
        )
    drawing = load(prior)
    read = (
        Cond(text=model.read(list(texts))).index([i % len(texts) for i in range(n)])
        if "text" in drawing.conditions
        else None
    )
    z = best(guide.cfg(drawing, PRIOR_SCALE), y, None if read is None else read["text"], seed=seed)
    return Cond(vector=told(z.cpu()))
