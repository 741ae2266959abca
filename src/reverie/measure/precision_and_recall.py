"""Precision (are samples like real pictures?) and recall (are all real pictures like some sample?) by balls of neighbours.

Kynkäänniemi et al. 2019 (eq. 1-2): each point of a set carries the ball that reaches its k-th nearest neighbour in the same set; the
balls together stand for the set's support.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from reverie.core.errors import InputError
from reverie.measure.frechet import check_features

ROWS = 500


class PrecisionRecall(NamedTuple):
    """Fractions in [0, 1]."""

    precision: float
    recall: float


def precision_recall(real: Float[Tensor, "n d"], generated: Float[Tensor, "m d"], k: int = 3) -> PrecisionRecall:
    """Precision is the fraction of generated points inside a ball of a real one (edge included), recall the reverse.

    Args:
        real: features of real pictures.
        generated: features of samples; recall grows with their number, so compare equal counts.
        k: a ball reaches the k-th nearest neighbour, the point itself not counted.

    Raises:
        InputError: for k < 1, k or fewer points, or features that do not fit together.
    """
    if k < 1:
        raise InputError(f"a ball reaches the k-th neighbour, k at least 1: got k = {k}")
    real, generated = check_features(real, generated, at_least=k + 1)
    number = torch.unique(torch.cat([real, generated]), dim=0, return_inverse=True)[1]
    x, y = _Points(real, number[: len(real)]), _Points(generated, number[len(real) :])
    return PrecisionRecall(_covered(y, x, k).mean().item(), _covered(x, y, k).mean().item())


class _Points(NamedTuple):
    """Points, and numbers that are equal for equal ones."""

    at: Tensor
    number: Tensor

    def split(self) -> Iterator["_Points"]:
        return map(_Points, self.at.split(ROWS), self.number.split(ROWS))


def _distances(x: _Points, y: _Points) -> Tensor:
    # matrix products are fifteen times as fast in thousands of dimensions, and would put equal points 1e-7 apart
    products = torch.cdist(x.at, y.at, compute_mode="use_mm_for_euclid_dist")
    return products.masked_fill_(x.number[:, None] == y.number, 0.0)


def _radii(x: _Points, k: int) -> Tensor:
    # a point is its own nearest neighbour, at distance zero
    return torch.cat([_distances(rows, x).kthvalue(k + 1, dim=1).values for rows in x.split()])


def _covered(points: _Points, support: _Points, k: int) -> Tensor:
    radii = _radii(support, k)
    inside: list[Bool[Tensor, " b"]] = [(_distances(rows, support) <= radii).any(1) for rows in points.split()]
    return torch.cat(inside).double()
