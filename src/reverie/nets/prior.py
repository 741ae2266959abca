"""A closed-form first estimate: one Gaussian a class, of low rank, whose exact denoiser the network only has to correct.

At high noise the score of real pictures is close to that of a Gaussian with their mean and covariance (Wang & Vastola, "The
unreasonable effectiveness of Gaussian score approximation for diffusion models", TMLR 2024), which needs no training. EDM's skip
connection (Karras et al. 2022) is the special case of one isotropic Gaussian around 0. Each class is a probabilistic principal
component analyser, ``N(μ, U·diag(e)·Uᵀ + ν·(I − UUᵀ))`` (Tipping & Bishop 1999).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from reverie.core.condition import Cond
from reverie.core.estimate import Estimate
from reverie.core.predictions import KINDS
from reverie.core.schedules import Point
from reverie.core.tensors import Scalar
from reverie.nets.precision import KeepsPrecision

LARGEST = 2000
"""Pictures of a class that a fit looks at."""
SPREAD = 0.25
"""The variance at which the first estimate is worth half: :meth:`Prior.share`."""


class Prior(KeepsPrecision, nn.Module):
    """A mixture of one low-rank Gaussian a class; buffers only, filled by :meth:`fit` and stored with the weights.

    Args:
        classes: components; 1 for data without labels.
        shape: of a sample, (C, H, W).
        rank: principal axes of each.
    """

    means: Tensor
    axes: Tensor
    centres: Tensor
    values: Tensor
    rest: Tensor
    log_weights: Tensor

    def __init__(self, classes: int, shape: tuple[int, ...], rank: int) -> None:
        super().__init__()
        d = math.prod(shape)
        self.rank = min(rank, d - 1)
        self.register_buffer("means", torch.zeros(classes, d))
        self.register_buffer("axes", torch.zeros(d, classes * self.rank))
        self.register_buffer("centres", torch.zeros(classes, self.rank))
        self.register_buffer("values", torch.ones(classes, self.rank))
        self.register_buffer("rest", torch.ones(classes))
        self.register_buffer("log_weights", torch.zeros(classes))

    @torch.no_grad()
    def fit(self, x: Tensor, labels: Tensor | None = None) -> None:
        """Mean, principal axes and remaining variance of each class, maximum likelihood (Tipping & Bishop 1999, eq. 7 and 8).

        Half as many axes as a class has pictures, if that is fewer; a class without pictures keeps weight 0.

        Args:
            x: clean samples, (N, C, H, W).
            labels: class of each, (N,).
        """
        for k in range(len(self.means)):
            members = x if labels is None else x[labels == k]
            self.log_weights[k] = math.log(len(members) / len(x)) if len(members) else -math.inf
            if not len(members):
                continue
            some = members[:: max(1, len(members) // LARGEST)].flatten(1).cpu().double()
            n, d = some.shape
            mean = some.mean(0)
            _, scales, axes = torch.linalg.svd((some - mean) / n**0.5, full_matrices=False)
            variances = scales.square()
            r = min(self.rank, n // 2)
            rest = (variances[r:].sum() / (d - r)).clamp(min=1e-4)
            self.means[k], self.rest[k] = mean, rest
            self.values[k] = rest
            self.values[k, :r] = variances[:r].clamp(min=float(rest))
            mine = self.axes[:, k * self.rank : (k + 1) * self.rank]
            mine.zero_()
            mine[:, :r] = axes[:r].T
            self.centres[k] = self.means[k] @ mine

    def forward(self, x: Tensor, point: Point, cond: Cond | None = None) -> Estimate:
        """The exact denoiser of the mixture, of a sample's class where its label is present.

        Args:
            x: noisy samples, (B, C, H, W).
            point: where on the path they lie.
            cond: may hold ``label``.
        """
        flat = x.flatten(1).to(self.means.dtype)
        alpha, sigma = (v.reshape(-1, 1) if isinstance(v, Tensor) else v for v in (point.alpha, point.sigma))
        a, s = (v[..., None] if isinstance(v, Tensor) else v for v in (alpha, sigma))
        classes, d = self.means.shape
        inside = (flat @ self.axes).unflatten(1, (classes, self.rank)) - a * self.centres
        variance, variance_rest = a * a * self.values + s * s, alpha * alpha * self.rest + sigma * sigma
        distance = (
            flat.square().sum(1, keepdim=True)
            - 2 * alpha * flat @ self.means.T
            + alpha * alpha * self.means.square().sum(1)
        )
        log_joint = self.log_weights - 0.5 * (
            (inside.square() / variance + variance.log()).sum(-1)
            + (distance - inside.square().sum(-1)) / variance_rest
            + (d - self.rank) * variance_rest.log()
        )
        if cond is not None and "label" in cond:
            label = cond["label"]
            other = torch.arange(classes, device=x.device) != label.value[:, None]
            log_joint = log_joint.masked_fill(other & label.present[:, None], -math.inf)
        weight = torch.softmax(log_joint, dim=1)
        # E[ε − x0 | x, k] = (σ − αΣ)(α²Σ + σ²)⁻¹(x − αμ) − μ
        gain_rest = (sigma - alpha * self.rest) / variance_rest
        gain = (s - a * self.values) / variance - gain_rest[..., None]
        plain = weight * gain_rest
        out = (
            plain.sum(1, keepdim=True) * flat
            - (weight + alpha * plain) @ self.means
            + (weight[..., None] * gain * inside).flatten(1) @ self.axes.T
        )
        return Estimate(x, out.view_as(x).to(x.dtype), KINDS["straight"](point), point)

    @staticmethod
    def shown(first: Estimate, cond: Cond | None) -> Tensor:
        """What the network is shown of its estimate: that of clean data."""
        return first.x0

    @staticmethod
    def share(point: Point) -> Scalar:
        """How much of the first estimate goes into the output, ``σ²/(σ² + ¼α²)``: all of it in noise, nothing near the data,
        where a Gaussian knows less than the noisy picture shows."""
        noise = point.sigma * point.sigma
        return noise / (noise + SPREAD * point.alpha * point.alpha)
