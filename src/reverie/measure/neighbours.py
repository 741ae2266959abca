"""Did it memorise? Distances of samples to their nearest training pictures, beside those of held-out pictures.

A model that has learned the distribution draws pictures that are as far from the training set as unseen real ones; a copier draws them
on top of it. Raw distances mislead (a blurred or a simple picture is near to everything), so each is divided by the *spacing* there: how
far that training picture lies from the nearest different one. Ratios of neighbour distances are what Carlini et al. 2023 ("Extracting
Training Data from Diffusion Models") and Yoon et al. 2023 ("... Generalize When They Fail to Memorize") find copies by; here held-out
pictures say what is normal, so a data set with near-duplicates of its own does not accuse the model.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from reverie.core.errors import InputError
from reverie.data import ImageSet

COPY = 0.5
MARGIN = 0.01
SIGMAS = 3.0
QUANTILES = (0.0, 0.01, 0.1, 0.5, 0.9, 1.0)
BINS = 40
ROWS = 500
COLUMNS = 2000

RULE = (
    f"A picture counts as a copy if it is less than {COPY} times as far from its nearest training picture as that picture is from the "
    f"nearest different training picture. The model is flagged if its samples are copies more often than held-out pictures are, by "
    f"more than {MARGIN:.0%} and by more than {SIGMAS:g} standard errors."
)


class Neighbours(NamedTuple):
    """Of each picture: the index of its nearest training picture, the distance, and that picture's spacing.

    Distances are root mean squares of the difference per pixel, on the [−1, 1] scale.
    """

    index: Int64[Tensor, " n"]
    distance: Float[Tensor, " n"]
    spacing: Float[Tensor, " n"]

    @property
    def ratio(self) -> Float[Tensor, " n"]:
        """Distance in units of the spacing: about 1 for an unseen picture, 0 for a copy."""
        return self.distance / self.spacing

    @property
    def copies(self) -> float:
        """The fraction with a ratio below :data:`COPY`."""
        return (self.ratio < COPY).double().mean().item()


def nearest(images: Float[Tensor, "n c h w"], train: ImageSet) -> Neighbours:
    """The nearest training pictures of pictures in [−1, 1], by squared differences of pixels.

    Raises:
        InputError: when the shapes differ, or the training pictures are all the same.
    """
    if tuple(images.shape[1:]) != train.shape:
        raise InputError(f"{train.name} has pictures of shape {train.shape}, got {tuple(images.shape[1:])}")
    distance, index = _search(images.double().flatten(1), train, 0.0)
    chosen, position = index.unique(return_inverse=True)
    # pixels are multiples of 1/127.5, so half of that in one of them separates equal pictures from different ones
    spacing, _ = _search(train.batch(chosen).x.double().flatten(1), train, 0.5 / 127.5)
    if not spacing.isfinite().all():
        raise InputError(f"the {len(train)} training pictures of {train.name} are all the same")
    scale = math.prod(train.shape) ** -0.5
    return Neighbours(index, distance * scale, spacing[position] * scale)


def _search(points: Tensor, train: ImageSet, beyond: float) -> tuple[Tensor, Tensor]:
    """Distance to, and index of, the nearest training picture that is further than ``beyond`` away."""
    distance = points.new_full((len(points),), math.inf)
    index = torch.zeros(len(points), dtype=torch.int64)
    for start in range(0, len(train), COLUMNS):
        block = train.batch(torch.arange(start, min(start + COLUMNS, len(train)))).x.double().flatten(1)
        norms = block.square().sum(1)
        for row in range(0, len(points), ROWS):
            rows = slice(row, row + ROWS)
            squared = points[rows].square().sum(1, keepdim=True) + norms - 2.0 * points[rows] @ block.T
            squared = squared.clamp_(min=0.0)
            if beyond:
                squared[squared <= beyond**2] = math.inf
            least, where = squared.min(1)
            closer = least.sqrt() < distance[rows]
            distance[rows] = torch.where(closer, least.sqrt(), distance[rows])
            index[rows] = torch.where(closer, where + start, index[rows])
    return distance, index


@dataclass(frozen=True, kw_only=True)
class Memorisation:
    """Nearest-neighbour distances of samples beside those of held-out pictures, and the verdict; ``rule`` says how it is reached."""

    samples: int
    held_out: int
    copies: float
    held_out_copies: float
    flagged: bool
    quantiles: tuple[float, ...]
    distances: tuple[float, ...]
    held_out_distances: tuple[float, ...]
    edges: tuple[float, ...]
    histogram: tuple[float, ...]
    held_out_histogram: tuple[float, ...]
    rule: str = RULE


def memorisation(samples: Neighbours, held_out: Neighbours) -> Memorisation:
    """Compare the two by :data:`RULE`. Histograms hold fractions of the distances between consecutive ``edges``."""
    n, m = len(samples.index), len(held_out.index)
    pooled = (samples.copies * n + held_out.copies * m) / (n + m)
    excess = samples.copies - held_out.copies
    error = math.sqrt(pooled * (1.0 - pooled) * (1.0 / n + 1.0 / m))
    edges = torch.linspace(0.0, torch.cat([samples.distance, held_out.distance]).max().item(), BINS + 1).double()
    levels = torch.tensor(QUANTILES, dtype=torch.float64)
    return Memorisation(
        samples=n,
        held_out=m,
        copies=samples.copies,
        held_out_copies=held_out.copies,
        flagged=excess > MARGIN and excess > SIGMAS * error,
        quantiles=QUANTILES,
        distances=tuple(samples.distance.quantile(levels).tolist()),
        held_out_distances=tuple(held_out.distance.quantile(levels).tolist()),
        edges=tuple(edges.tolist()),
        histogram=_histogram(samples.distance, edges),
        held_out_histogram=_histogram(held_out.distance, edges),
    )


def _histogram(values: Tensor, edges: Tensor) -> tuple[float, ...]:
    bins = torch.bucketize(values.contiguous(), edges[1:-1])
    return tuple((torch.bincount(bins, minlength=BINS).double() / len(values)).tolist())
