"""Prototypes learned together with the denoiser (Hu et al. 2024, "Guided diffusion from self-supervised diffusion features").

No encoder is needed: a feature of the network's own, run without a condition, is projected to the unit sphere and compared with K
prototypes. Sinkhorn-Knopp balances the assignments of a batch over the prototypes (Caron et al. 2020, SwAV), the balanced code is what the
features learn to predict and what the denoiser is conditioned on. :class:`reverie.diffusion.Online` trains all of it at once.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from reverie.core.tensors import exact


def sinkhorn(scores: Tensor, epsilon: float = 0.05, iterations: int = 3) -> Tensor:
    """Balanced soft assignments: ``exp(scores/ε)`` scaled until every row sums to 1 and every column to B/K (Cuturi 2013).

    It reduces over the batch, as the method means it to: for training only.

    Args:
        scores: (B, K) similarities.
        epsilon: smaller is harder.
        iterations: of Sinkhorn-Knopp; columns first, rows last, so rows sum to 1 exactly.

    Returns:
        (B, K), without gradient.
    """
    log_q = scores.detach().to(exact(scores)) / epsilon
    log_column = math.log(len(scores) / scores.shape[1])
    for _ in range(iterations):
        log_q = log_q - log_q.logsumexp(0, keepdim=True) + log_column
        log_q = log_q - log_q.logsumexp(1, keepdim=True)
    return log_q.exp().to(scores.dtype)


class Prototypes(nn.Module):
    """A head and K prototypes on the unit sphere. The head first takes away what all pictures share (by batch, in training only).

    Args:
        features: of the network, at the tapped site.
        prototypes: K.
        dim: of the sphere's space.
    """

    def __init__(self, features: int, prototypes: int, dim: int = 64) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.BatchNorm1d(features, affine=False), nn.Linear(features, dim))
        self.table = nn.Parameter(torch.randn(prototypes, dim))

    def forward(self, features: Tensor) -> Tensor:
        """Cosine similarity of pooled features (B, features) to each prototype, (B, K)."""
        return normalize(self.head(features), dim=1) @ normalize(self.table, dim=1).T


def pooled(value: Tensor) -> Tensor:
    """The mean over places of a tapped value: maps (B, C, H, W) or tokens (B, N, C) -> (B, C)."""
    return value.mean((2, 3)) if value.ndim == 4 else value.mean(1)
