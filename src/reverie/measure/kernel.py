"""Kernel distance: the squared maximum mean discrepancy of two sets of features under a cubic kernel.

Bińkowski et al. 2018 (section 3; Gretton et al. 2012, eq. 3): ``MMD² = E k(x, x′) + E k(y, y′) − 2 E k(x, y)``,
``k(x, y) = (xᵀy/d + 1)³``. The estimate leaves out the pairs of a point with itself, which makes it unbiased: for equal laws its mean is
zero whatever the counts, and single values may be negative.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from reverie.measure.frechet import check_features

ROWS = 1000


def kernel_distance(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> float:
    """The unbiased estimate from all pairs, in float64.

    Raises:
        InputError: for features that do not fit together, see :func:`reverie.measure.frechet.check_features`.
    """
    x, y = check_features(x, y)
    return (_within(x) + _within(y) - 2.0 * _total(x, y) / (len(x) * len(y))).item()


def _kernel(inner: Tensor, d: int) -> Tensor:
    return (inner / d + 1.0) ** 3


def _total(x: Tensor, y: Tensor) -> Tensor:
    return torch.stack([_kernel(rows @ y.T, x.shape[1]).sum() for rows in x.split(ROWS)]).sum()


def _within(x: Tensor) -> Tensor:
    n = len(x)
    return (_total(x, x) - _kernel(x.square().sum(1), x.shape[1]).sum()) / (n * (n - 1))
