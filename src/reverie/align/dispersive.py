"""Dispersive loss: the features of different pictures are pushed apart; there is nothing to pull together.

Wang & He, "Diffuse and disperse: image generation with representation regularization", 2025 (arXiv:2506.09027), equation 6:
``log mean_ij exp(−‖z_i − z_j‖²/τ)`` over all pairs of a batch, a picture and itself among them; ‖·‖² is a mean over features.
"""

import math

import torch
from torch import Tensor

from reverie.align.auxiliary import AuxiliaryLoss, Observation


class Dispersive(AuxiliaryLoss):
    """Repulsion within a batch: the one loss here in which the samples of a batch (of a micro-batch, of a process) meet.

    Args:
        site: of a block in the first quarter of the network.
        temperature: τ.
        weight: of the loss.
    """

    name = "dispersive"

    def __init__(self, site: str, temperature: float = 0.5, weight: float = 0.5) -> None:
        self.site, self.sites, self.temperature, self.weight = site, (site,), temperature, weight

    def loss(self, seen: Observation) -> Tensor:
        return dispersion(seen.values[self.site], self.temperature)


def dispersion(z: Tensor, temperature: float) -> Tensor:
    """``log mean_ij exp(−‖z_i − z_j‖²/(F·τ))`` of features (B, …) with F numbers each: (), at most 0."""
    z = z.flatten(1).float()
    square = z.square().sum(1)
    distance = (square[:, None] + square[None] - 2.0 * z @ z.T).clamp(min=0.0) / z.shape[1]
    return torch.logsumexp(-distance.flatten() / temperature, 0) - 2.0 * math.log(len(z))
