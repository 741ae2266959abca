"""Pictures as bits: what an autoregressive model expects, made integers and given to a range coder.

The coder is constriction's (Bamler 2022, "Understanding Entropy Coding With Asymmetric Numeral Systems", arXiv:2201.01741). What decodes
must compute the very integers that coded: both walk the same chain in the same batches, in one thread and in double precision, whose last
bits, where another machine computes them otherwise, all but never reach the integers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from constriction import stream  # pyright: ignore[reportAttributeAccessIssue] - compiled
from torch import Tensor

from reverie.core.condition import Cond
from reverie.core.errors import InputError
from reverie.families.autoregressive import Autoregressive, walk

STEPS = 2.0**20
"""Probabilities are whole multiples of its inverse, and at least that."""
Told = Callable[[int], None]
"""Told of so many numbers that are done."""


def coder(model: Autoregressive) -> Autoregressive:
    """The model as it codes: a copy on the host, in double precision.

    Raises:
        InputError: for a model of codes that stand for pictures only roughly.
    """
    if not model.net.exact:
        raise InputError(
            "this model draws tiles of a codebook, which are near to those of a picture and not the same: only a model of all levels "
            "compresses (for tiles, --head mixture)"
        )
    return copy.deepcopy(model).to(device="cpu", dtype=torch.float64)


def cheapest(model: Autoregressive, tokens: Tensor, told: Told = lambda done: None) -> Tensor:
    """The class under which each sequence (n, length) costs least, (n,); told of each class of each sequence."""
    costs = []
    for label in range(model.classes):
        costs.append(-model.nats(tokens, Cond(label=label)))
        told(len(tokens))
    return torch.stack(costs).argmin(0)


def encode(model: Autoregressive, tokens: Tensor, labels: Tensor | None, told: Told = lambda done: None) -> bytes:
    """The code of sequences (n, length), coded side by side, each under its class, which is coded too.

    Args:
        model: as :func:`coder` gives it.
        tokens: the sequences.
        labels: (n,), for a model of classes.
    """
    queue = stream.queue.RangeEncoder()
    if labels is not None:
        queue.encode(labels.numpy().astype(np.int32), stream.model.Uniform(model.classes))

    def write(i: int, log_p: Tensor) -> Tensor:
        queue.encode(tokens[:, i].numpy().astype(np.int32), stream.model.Categorical(perfect=False), integers(log_p))
        told(1)
        return tokens[:, i]

    with _one_thread():
        walk(model.net, len(tokens), under(labels), write)
    return queue.get_compressed().astype("<u4").tobytes()


def decode(model: Autoregressive, code: bytes, n: int, told: Told = lambda done: None) -> Tensor:
    """The ``n`` sequences of a code, (n, length); of a code that was changed, some."""
    queue = stream.queue.RangeDecoder(np.frombuffer(code, "<u4").astype(np.uint32))
    labels = None
    if model.classes:
        labels = torch.from_numpy(queue.decode(stream.model.Uniform(model.classes), n)).long()

    def read(i: int, log_p: Tensor) -> Tensor:
        told(1)
        return torch.from_numpy(queue.decode(stream.model.Categorical(perfect=False), integers(log_p))).long()

    with _one_thread():
        return walk(model.net, n, under(labels), read)


def integers(log_p: Tensor) -> np.ndarray:
    """Probabilities as whole numbers, none of them 0, as float64."""
    return np.floor(log_p.exp().numpy() * STEPS) + 1.0


def under(labels: Tensor | None) -> Cond | None:
    """The condition of given classes, if there are any."""
    return None if labels is None else Cond(label=labels)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_num_threads(threads)
