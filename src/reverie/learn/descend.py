"""Descent in memory, for what is small and trained in seconds: heads, probes, pixel classifiers. Runs have :mod:`reverie.learn.loop`."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from reverie.core.progress import Progress


def descend(
    optimizer: Optimizer,
    loss: Callable[[int], Tensor],
    steps: int,
    *,
    label: str,
    cosine: bool = True,
    stop: Callable[[int, float], bool] | None = None,
) -> None:
    """Step an optimizer down a loss.

    Args:
        optimizer: of the weights.
        loss: of a step by its number, ().
        steps: at most so many.
        label: of the progress bar.
        cosine: whether the rate decays to 0 along a cosine.
        stop: told a step's number and loss; true ends it.
    """
    decay = CosineAnnealingLR(optimizer, steps) if cosine else None
    with torch.enable_grad(), Progress(label, steps, "steps") as bar:
        for step in range(steps):
            value = loss(step)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            if decay is not None:
                decay.step()
            bar.advance()
            if stop is not None and stop(step, value.item()):
                return
