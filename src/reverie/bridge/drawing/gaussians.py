"""One Gaussian a class of low rank, ``N(μ, U·diag(e)·Uᵀ + ν·(I − UUᵀ))``, and the exact denoiser of their mixture, as a part of a pipeline
of diffusers'. :func:`reverie.bridge.write` puts this file beside the weights."""

from __future__ import annotations

import math

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin


class Gaussians(ModelMixin, ConfigMixin):
    """The mixture of ``classes`` Gaussians of ``rank`` axes in ``size`` dimensions."""

    means: torch.Tensor
    axes: torch.Tensor
    centres: torch.Tensor
    variances: torch.Tensor
    rest: torch.Tensor
    log_weights: torch.Tensor

    @register_to_config
    def __init__(self, classes: int, size: int, rank: int) -> None:
        super().__init__()
        self.register_buffer("means", torch.zeros(classes, size))
        self.register_buffer("axes", torch.zeros(size, classes * rank))
        self.register_buffer("centres", torch.zeros(classes, rank))
        self.register_buffer("variances", torch.ones(classes, rank))
        self.register_buffer("rest", torch.ones(classes))
        self.register_buffer("log_weights", torch.zeros(classes))

    def forward(
        self, x: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor, labels: torch.Tensor | None
    ) -> torch.Tensor:
        """``E[x0 | x]`` of ``x = alpha·x0 + sigma·ε``, of the class that is told; of a number that is no class, of all."""
        flat, means = x.flatten(1), []
        classes, size = self.means.shape
        log_joint = self.log_weights.expand(len(x), classes).clone()
        for k, axes in enumerate(self.axes.chunk(classes, dim=1)):
            away = flat - alpha * self.means[k]
            inside = away @ axes
            variance, rest = alpha**2 * self.variances[k] + sigma**2, alpha**2 * self.rest[k] + sigma**2
            gain, gain_rest = alpha * self.variances[k] / variance, alpha * self.rest[k] / rest
            means.append(self.means[k] + gain_rest * away + ((gain - gain_rest) * inside) @ axes.T)
            log_joint[:, k] -= 0.5 * (
                (inside**2 / variance + variance.log()).sum(1)
                + (away.square().sum(1) - inside.square().sum(1)) / rest
                + (size - len(variance)) * rest.log()
            )
        if labels is not None:
            told = labels[:, None] < classes
            other = labels[:, None] != torch.arange(classes, device=x.device)
            log_joint = log_joint.masked_fill(told & other, -math.inf)
        weights = torch.softmax(log_joint, dim=1)
        return torch.einsum("bk,kbd->bd", weights, torch.stack(means)).view_as(x)
