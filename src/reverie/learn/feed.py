"""Batches of a data set by position in the run."""

from collections.abc import Callable
from dataclasses import replace

import torch

from reverie.core.batch import Batch, Dataset
from reverie.data import order

Feed = Callable[[int, int], Batch]
"""(start, count) -> the samples at positions ``start … start + count − 1`` of the run."""


def feed(data: Dataset, seed: int, flip: bool = False, labels: bool = True) -> Feed:
    """Epoch after epoch in fresh order, mirrored at random if ``flip``, with conditions if there are any and ``labels``."""

    def batch(start: int, count: int) -> Batch:
        found = data.batch(order.indices(seed, start, count, len(data)))
        if flip:
            mirrored = order.flips(seed, start, count)[:, None, None, None]
            found = replace(found, x=torch.where(mirrored, found.x.flip(-1), found.x))
        return found if labels else replace(found, cond=None)

    return batch
