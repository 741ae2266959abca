"""Generative diffusion classifiers: which block, which time, how much pooling, which head.

Mukhopadhyay et al., "Diffusion Models Beat GANs on Image Classification", 2023 (section 3.2, figures 3 and 4). A single block's map at one
time is pooled to p x p places and read by a linear layer, a perceptron, a convolutional network or attention. Time and block decide most;
attention wants many labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from reverie.core.denoiser import Denoiser
from reverie.data import ImageSet
from reverie.read.extract import features
from reverie.read.maps import Noise
from reverie.read.probes import probe
from reverie.read.probes.grid import predict


class Reading(NamedTuple):
    """One combination of the sweep and its accuracy."""

    site: str
    t: float
    pool: int
    head: str
    accuracy: float


def sweep(
    denoise: Denoiser,
    train: Tensor | ImageSet,
    train_labels: Tensor,
    test: Tensor | ImageSet,
    test_labels: Tensor,
    *,
    sites: Sequence[str],
    t: Sequence[float],
    pools: Sequence[int] = (1, 2, 4),
    heads: Sequence[str] = ("linear", "mlp", "conv", "attention"),
    noise: Noise = "fresh",
    seed: int = 0,
) -> list[Reading]:
    """Every combination of block, time, pooling and head, the best first.

    Args:
        denoise: what to read.
        train, test: (N, C, H, W) in [−1, 1], or data sets.
        train_labels, test_labels: (N,) class numbers.
        sites, t, pools, heads: what to combine.
        noise: as in :func:`reverie.read.features`.
        seed: of noise and heads.

    Raises:
        InputError: for an unknown site or head, or labels of another length.
    """
    classes, found = int(train_labels.max()) + 1, []
    for pool in pools:
        known, asked = (
            features(denoise, images, list(sites), t=list(t), noise=noise, pool=pool, seed=seed + i)
            for i, images in enumerate((train, test))
        )
        for head in heads:
            logits = predict(known, train_labels, asked, classes, head, seed)
            found += [Reading(*cell, pool, head, probe.accuracy(v, test_labels)) for cell, v in logits.items()]
    return sorted(found, key=lambda reading: -reading.accuracy)
