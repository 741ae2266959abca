"""From masks to a panoptic map, and its quality (Kirillov et al., "Panoptic segmentation", CVPR 2019)."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from reverie.core.errors import InputError


class Panoptic(NamedTuple):
    """``segments`` (H, W): the number of the segment of each pixel, 0 for none; ``labels`` by number, from 1 on, its category."""

    segments: Tensor
    labels: dict[int, int]


def panoptic(
    scores: Tensor, masks: Tensor, stuff: Collection[int] = (), least: float = 0.5, visible: float = 0.8
) -> Panoptic:
    """The panoptic map of one picture (Cheng et al. 2021, MaskFormer, section 3.4).

    Args:
        scores: (Q, K + 1), probabilities, the last that there is nothing.
        masks: (Q, H, W), probabilities.
        stuff: categories whose segments are one, such as sky.
        least: a query's score at least.
        visible: the share of a mask that others must leave uncovered.
    """
    best, labels = scores.max(-1)
    kept = ((labels < scores.shape[1] - 1) & (best > least)).nonzero()[:, 0]
    segments = torch.zeros(masks.shape[1:], dtype=torch.int64, device=masks.device)
    found: dict[int, int] = {}
    if not len(kept):
        return Panoptic(segments, found)
    owner = (best[kept, None, None] * masks[kept]).argmax(0)
    merged: dict[int, int] = {}
    for i, query in enumerate(kept.cpu().tolist()):
        whole = masks[query] >= 0.5
        mine = (owner == i) & whole
        if not mine.any() or mine.sum() < visible * whole.sum():
            continue
        label = int(labels[query])
        number = merged.get(label, len(found) + 1)
        if label in stuff:
            merged[label] = number
        segments[mine] = number
        found[number] = label
    return Panoptic(segments, found)


def components(classes: Tensor, stuff: Collection[int] = ()) -> Panoptic:
    """The panoptic map of a class a pixel (H, W), negative where unknown: connected regions are things, all of a class of ``stuff`` one.

    Pixels are neighbours across corners too. Two things of a class that touch count as one: where that matters, the truth must say which
    is which.
    """
    segments, found = torch.zeros_like(classes), {}
    for label in classes.unique().tolist():
        if label < 0:
            continue
        here = (classes == label).cpu().numpy()
        parts = here.astype(int) if label in stuff else ndimage.label(here, np.ones((3, 3)))[0]  # pyright: ignore[reportIndexIssue]
        numbers = torch.as_tensor(parts, device=classes.device)
        segments = torch.where(numbers > 0, numbers + len(found), segments)
        found |= dict.fromkeys(range(len(found) + 1, len(found) + int(numbers.max()) + 1), label)
    return Panoptic(segments, found)


class Quality(NamedTuple):
    """Panoptic quality ``pq = sq·rq``: how well matched segments overlap, times how many are matched; ``classes`` (K,), NaN if absent."""

    pq: float
    sq: float
    rq: float
    classes: Tensor


def quality(found: Sequence[Panoptic], truth: Sequence[Panoptic], categories: int) -> Quality:
    """Panoptic quality over pictures, mean over the categories that occur.

    Two segments of one category match when they overlap by more than half of their union; such a match is unique. Pixels that are 0 in
    the truth are void: they count for nobody, and a found segment that lies more than half in them is no error.

    Raises:
        InputError: for pictures of different size or number.
    """
    if len(found) != len(truth) or any(
        f.segments.shape != t.segments.shape for f, t in zip(found, truth, strict=False)
    ):
        raise InputError("panoptic quality compares as many maps as there are true ones, of the same sizes")
    overlap = torch.zeros(categories, dtype=torch.float64)
    hits, extra, missed = (torch.zeros(categories, dtype=torch.float64) for _ in range(3))
    for mine, true in zip(found, truth, strict=True):
        pairs = torch.stack([mine.segments.cpu().flatten(), true.segments.cpu().flatten()])
        table = {(int(a), int(b)): int(n) for (a, b), n in zip(*_counts(pairs), strict=True)}
        sizes = [_sizes(pairs[i]) for i in (0, 1)]
        matched: set[int] = set()
        for a, label in mine.labels.items():
            void = table.get((a, 0), 0)
            partner = None
            for b, other in true.labels.items():
                both = table.get((a, b), 0)
                if other == label and both > 0.5 * (union := sizes[0].get(a, 0) + sizes[1].get(b, 0) - both - void):
                    partner = b
                    overlap[label] += both / union
            if partner is not None:
                matched.add(partner)
                hits[label] += 1
            elif void <= 0.5 * sizes[0].get(a, 0):
                extra[label] += 1
        for b, label in true.labels.items():
            missed[label] += b not in matched
    weight = hits + 0.5 * extra + 0.5 * missed
    there = weight > 0
    classes = torch.where(there, overlap / weight.clamp(min=0.5), torch.nan)
    sq = (overlap / hits.clamp(min=1.0))[there].mean().item() if there.any() else 0.0
    rq = (hits / weight.clamp(min=0.5))[there].mean().item() if there.any() else 0.0
    return Quality(classes[there].mean().item() if there.any() else 0.0, sq, rq, classes)


def _counts(pairs: Tensor) -> tuple[list[list[int]], list[int]]:
    values, counts = pairs.unique(dim=1, return_counts=True)
    return values.T.tolist(), counts.tolist()


def _sizes(segments: Tensor) -> dict[int, int]:
    values, counts = segments.unique(return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))
