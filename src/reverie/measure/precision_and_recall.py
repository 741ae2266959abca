"""Precision (are samples like real pictures?) and recall (are all real pictures like some sample?) by balls of neighbours.

Kynkäänniemi et al. 2019 (eq. 1-2): each point of a set carries the ball that reaches its k-th nearest neighbour in the same set; the
balls together stand for the set's support.
"""

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
    return PrecisionRecall(_covered(generated, real, k).mean().item(), _covered(real, generated, k).mean().item())


def _distances(x: Tensor, y: Tensor) -> Tensor:
    # without matrix products, which would put identical points 1e-7 apart
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def _radii(x: Tensor, k: int) -> Tensor:
    # a point is its own nearest neighbour, at distance zero
    return torch.cat([_distances(rows, x).kthvalue(k + 1, dim=1).values for rows in x.split(ROWS)])


def _covered(points: Tensor, support: Tensor, k: int) -> Tensor:
    radii = _radii(support, k)
    inside: list[Bool[Tensor, " b"]] = [(_distances(rows, support) <= radii).any(1) for rows in points.split(ROWS)]
    return torch.cat(inside).double()
