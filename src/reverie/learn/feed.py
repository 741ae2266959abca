"""Batches of a data set by position in the run."""

from collections.abc import Callable

import torch

from reverie.core.condition import Cond
from reverie.data import ImageSet, order
from reverie.learn.task import Batch

Feed = Callable[[int, int], Batch]
"""(start, count) -> the images at positions ``start … start + count − 1`` of the run."""


def feed(data: ImageSet, seed: int, flip: bool = False, labels: bool = True) -> Feed:
    """Epoch after epoch in fresh order, mirrored at random if ``flip``, with labels if there are any and ``labels``."""

    def batch(start: int, count: int) -> Batch:
        images, classes = data.batch(order.indices(seed, start, count, len(data)))
        if flip:
            images = torch.where(order.flips(seed, start, count)[:, None, None, None], images.flip(-1), images)
        return Batch(images, Cond(label=classes) if labels and classes is not None else None)

    return batch
