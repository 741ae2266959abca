"""Denoising diffusion autoencoders: unconditional diffusion networks as self-supervised classifiers.

Xiang, Yang, Huang & Wang, "Denoising Diffusion Autoencoders are Unified Self-supervised Learners", ICCV 2023. A picture is noised a little,
the activations of a block in the middle of the network's second half are averaged over places, and one linear layer reads the class. One
such layer for every (block, time) learns in the same sweep, with fresh noise in every pass over the pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from reverie.core.denoiser import Denoiser
from reverie.core.errors import InputError
from reverie.data import ImageSet, order
from reverie.read.extract import pooled
from reverie.read.maps import blocks, draws, level, maps, noisy
from reverie.read.probes import heads
from reverie.read.probes.probe import accuracy
from reverie.read.store import Cell

STREAM_SEED = 2**20
"""Offset of the noise of the test pictures."""
T = (0.01, 0.02, 0.05, 0.1)
"""Times to search, of a path from 0 to 1; the paper's DDPM search is t = 1, 11, 21 of 1000."""


def sites(denoise: Denoiser) -> list[str]:
    """The blocks to search: those of a U-Net's way up, all of a transformer."""
    every = blocks(denoise)
    return [site for site in every if site.startswith(("up.", "up_blocks."))] or every


def probe(
    denoise: Denoiser,
    train: ImageSet,
    test: ImageSet,
    *,
    at: Sequence[str] | None = None,
    t: Sequence[float] = T,
    epochs: int = 15,
    batch: int = 128,
    lr: float = 1e-3,
    flip: bool = False,
    crop: int = 0,
    seed: int = 0,
) -> dict[Cell, float]:
    """Accuracy of linear probes by (site, t): Adam at ``lr`` with cosine decay, no normalisation of the features (section 4).

    Args:
        denoise: with averaged weights; conditional models are read with the null condition.
        train, test: labelled pictures.
        at: sites; :func:`sites` by default.
        t: times.
        epochs, batch, lr: of the training.
        flip: mirror half of the pictures.
        crop: shift them at random by up to so many pixels, 4 in the paper.
        seed: of order, noise and augmentation.

    Raises:
        InputError: for data without labels, or an unknown site.
    """
    if train.labels is None or test.labels is None:
        raise InputError(f"{train.name} has no labels to probe for: give pictures in one folder a class")
    at, classes = list(sites(denoise) if at is None else at), len(train.classes) or int(train.labels.max()) + 1
    width = {site: value.shape[1] for site, value in _look(denoise, test.batch([0]).x, at, t[:1], [(seed, 0)]).items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        probes: dict[Cell, nn.Module] = {(s, each): nn.Linear(width[s, t[0]], classes) for s in at for each in t}

    def batches() -> Iterator[heads.Batch]:
        start = 0
        while True:
            some = train.batch(order.indices(seed, start, batch, len(train)))
            images, labels = some.x, some.label
            images = augmented(images, seed, start, flip, crop)
            assert labels is not None
            yield _look(denoise, images, at, t, [(seed, start + i) for i in range(batch)]), labels
            start += batch

    heads.fit(probes, batches(), max(1, epochs * len(train) // batch), lr, label="training linear probes")
    right: dict[Cell, float] = dict.fromkeys(probes, 0.0)
    with torch.no_grad():
        for start in range(0, len(test), batch):
            rows = range(start, min(start + batch, len(test)))
            some = test.batch(rows)
            images, labels = some.x, some.label
            assert labels is not None
            found = _look(denoise, images, at, t, [(seed + STREAM_SEED, i) for i in rows])
            for cell, head in probes.items():
                right[cell] += accuracy(head(found[cell]), labels) * len(rows) / len(test)
    return right


def augmented(images: Tensor, seed: int, start: int, flip: bool, crop: int) -> Tensor:
    """Pictures mirrored and shifted at random, as functions of the seed and the position in training."""
    if flip:
        images = torch.where(order.flips(seed, start, len(images))[:, None, None, None], images.flip(-1), images)
    if not crop:
        return images
    rng = torch.Generator().manual_seed(seed * 2**32 + start)
    high, wide = images.shape[-2:]
    padded = nn.functional.pad(images, (crop,) * 4, mode="reflect")
    moves = torch.randint(2 * crop + 1, (len(images), 2), generator=rng).tolist()
    return torch.stack([picture[:, y : y + high, x : x + wide] for picture, (y, x) in zip(padded, moves, strict=True)])


@torch.no_grad()
def _look(
    denoise: Denoiser, images: Tensor, at: Sequence[str], t: Sequence[float], rows: Sequence[tuple[int, int]]
) -> dict[Cell, Tensor]:
    x0 = denoise.space.encode(images.to(denoise.device))
    noise = draws("fresh", rows[: len(images)], x0.shape[1:], (0, 0))[0]
    found: dict[Cell, Tensor] = {}
    for each in t:
        point = level(denoise, None, each)
        found |= {
            (site, each): pooled(v, 1).float().cpu()
            for site, v in maps(denoise, noisy(x0, point, noise), point, at).items()
        }
    return found
