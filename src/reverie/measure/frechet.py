"""Fréchet distance between the Gaussians that have the mean and covariance of two sets of features.

``‖μ₁ − μ₂‖² + Tr(C₁ + C₂ − 2(C₁C₂)^½)`` (Dowson & Landau 1982; Heusel et al. 2017, eq. 6). With factors C = FᵀF the last trace is the
nuclear norm of F₁F₂ᵀ: singular values instead of square roots of eigenvalues, so nothing is lost where a covariance is singular
(torchmetrics 1.9, which takes the eigenvalues, gives −5·10⁻⁵ instead of 0 for 100 points in 512 dimensions; this gives 10⁻¹³).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from reverie.core.errors import InputError


def check_features(x: Tensor, y: Tensor, at_least: int = 2) -> tuple[Tensor, Tensor]:
    """Two sets of features in float64.

    Raises:
        InputError: if they are not two finite matrices (n, d) and (m, d) with at least ``at_least`` rows.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < at_least:
        raise InputError(
            f"two sets of features are (n, d) and (m, d) with n and m at least {at_least}: "
            f"got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    x, y = x.double(), y.double()
    if not (x.isfinite().all() and y.isfinite().all()):
        raise InputError("features must be finite: some are NaN or infinite")
    return x, y


def frechet_distance(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> float:
    """The distance between two sets of features, with unbiased covariances, in float64.

    Its bias is positive and of order 1/n: compare only values taken with equal counts, and say the counts.

    Raises:
        InputError: for features that do not fit together, see :func:`check_features`.
    """
    x, y = check_features(x, y)
    return _distance(x.mean(0) - y.mean(0), _factor(x), _factor(y))


def frechet_distance_to_moments(
    x: Float[Tensor, "n d"], mean: Float[Tensor, " d"], covariance: Float[Tensor, "d d"]
) -> float:
    """The distance between a set of features and a Gaussian given by its moments, in float64; its bias is that of :func:`frechet_distance`.

    Raises:
        InputError: for features that do not fit, see :func:`check_features`.
    """
    x, mean = check_features(x, mean.expand(2, -1))
    return _distance(x.mean(0) - mean[0], _factor(x), _root(covariance))


def frechet_distance_of_moments(
    mean: Float[Tensor, " d"],
    covariance: Float[Tensor, "d d"],
    mean2: Float[Tensor, " d"],
    covariance2: Float[Tensor, "d d"],
) -> float:
    """The distance between two Gaussians given by their moments; the covariances are symmetric positive semi-definite."""
    return _distance(mean.double() - mean2.double(), _root(covariance), _root(covariance2))


def _factor(x: Tensor) -> Tensor:
    """R with ``RᵀR`` the unbiased covariance of the rows."""
    return torch.linalg.qr((x - x.mean(0)) / (len(x) - 1) ** 0.5, mode="r").R


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance.double())
    return (vectors * values.clamp(min=0.0).sqrt()).T


def _distance(shift: Tensor, f: Tensor, g: Tensor) -> float:
    return (
        shift.square().sum() + f.square().sum() + g.square().sum() - 2.0 * torch.linalg.svdvals(f @ g.T).sum()
    ).item()
