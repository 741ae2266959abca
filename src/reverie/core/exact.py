"""Closed-form denoisers: data distributions whose noisy marginals, scores and likelihoods are known exactly.

They are the ground truth of the tests and of the docs, and ordinary denoisers: any solver, guide or measure takes them.
"""

import math
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from reverie.core.condition import Cond, Label
from reverie.core.denoiser import Denoiser
from reverie.core.errors import InputError
from reverie.core.estimate import Estimate
from reverie.core.predictions import KINDS
from reverie.core.schedules import Point, Schedule
from reverie.core.space import Identity
from reverie.core.tensors import Scalar


class GaussianMixture:
    """``p(x0) = Σ_k w_k N(μ_k, Σ_k)`` with full covariances.

    Args:
        weights: (K,), positive; normalised here.
        means: ``(K, *shape)``.
        covariances: (K, d, d) with d the product of ``shape``; positive semi-definite.
        labels: optional class of each component, (K,); then the denoiser is conditional on ``label``.

    Raises:
        InputError: when the shapes do not fit.
    """

    def __init__(
        self, weights: Tensor, means: Tensor, covariances: Tensor, labels: Sequence[int] | Tensor | None = None
    ) -> None:
        weights, means, covariances = (torch.as_tensor(v) for v in (weights, means, covariances))
        k, d = means.shape[0], math.prod(means.shape[1:])
        if weights.shape != (k,) or covariances.shape != (k, d, d):
            raise InputError(
                f"{k} components of dimension {d} need weights of shape {(k,)} and covariances of shape {(k, d, d)}: "
                f"got {tuple(weights.shape)} and {tuple(covariances.shape)}"
            )
        self.shape = tuple(means.shape[1:])
        self.log_weights = torch.log(weights / weights.sum())
        self.means = means.reshape(k, d)
        self.covariances = covariances
        values, self.vectors = torch.linalg.eigh(covariances)
        self.values = values.clamp(min=0.0)
        self.labels = None if labels is None else torch.as_tensor(labels)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The mixture itself, on another device or in another dtype; an accelerator gets at most float32."""
        dtype = self.means.dtype if dtype is None else dtype
        for name in ("log_weights", "means", "covariances", "values", "vectors", "labels"):
            value = getattr(self, name)
            if value is not None:
                setattr(self, name, _placed(value, device, dtype))
        return self

    def denoiser(self, schedule: Schedule) -> Denoiser:
        """The exact denoiser E[x0 | x_t] on a path."""
        return MixtureDenoiser(self, schedule)

    def classifier(self, schedule: Schedule) -> "MixtureClassifier":
        """The exact noise-aware classifier p(label | x_t) on a path.

        Raises:
            InputError: for a mixture without labels.
        """
        return MixtureClassifier(self, schedule)

    def log_prob(self, x: Tensor, cond: Cond | None = None) -> Tensor:
        """``log p(x0)`` in nats, ``(B, *shape)`` -> (B,)."""
        return self.marginal_log_prob(x, 1.0, 0.0, cond)

    def marginal_log_prob(self, x: Tensor, alpha: Scalar, sigma: Scalar, cond: Cond | None = None) -> Tensor:
        """``log p_t(x)`` of ``α·x0 + σ·ε`` in nats, ``(B, *shape)`` -> (B,)."""
        _, log_joint = self._components(x.flatten(1), _column(alpha), _column(sigma), cond)
        return torch.logsumexp(log_joint, dim=1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """``n`` draws of x0, ``(n, *shape)``."""
        k = torch.multinomial(self.log_weights.exp().cpu(), n, replacement=True, generator=generator)
        z = torch.randn(n, self.means.shape[1], dtype=self.means.dtype, generator=generator).to(self.means.device)
        return (self.means[k] + torch.einsum("bij,bj->bi", self.vectors[k] * self.values[k, None].sqrt(), z)).reshape(
            n, *self.shape
        )

    def _components(self, x: Tensor, alpha: Scalar, sigma: Scalar, cond: Cond | None) -> tuple[Tensor, Tensor]:
        """Residuals in each component's eigenbasis, (B, K, d), and log w_k + log N(x; αμ_k, α²Σ_k + σ²I), (B, K)."""
        a, s = (v[..., None] if isinstance(v, Tensor) else v for v in (alpha, sigma))
        residual = torch.einsum("kij,bki->bkj", self.vectors, x[:, None] - a * self.means)
        variance = a * a * self.values + s * s
        log_normal = -0.5 * (residual**2 / variance + torch.log(2 * math.pi * variance)).sum(-1)
        log_joint = self.log_weights + log_normal
        if cond is not None and self.labels is not None and "label" in cond:
            entry = cond["label"]
            member = (self.labels == entry.value[:, None]) | ~entry.present[:, None]
            log_prior = torch.where(member, self.log_weights, -math.inf)
            log_joint = log_prior - torch.logsumexp(log_prior, 1, keepdim=True) + log_normal
        return residual, log_joint


class MixtureDenoiser(Denoiser):
    """The exact denoiser of a :class:`GaussianMixture`; it predicts ε − x0, which loses no digits at either end of the path."""

    def __init__(self, data: GaussianMixture, schedule: Schedule) -> None:
        self.data, self.schedule, self.shape, self.space = data, schedule, data.shape, Identity()
        self.conditions = {} if data.labels is None else {"label": Label(int(data.labels.max()) + 1)}

    @property
    def dtype(self) -> torch.dtype:
        return self.data.means.dtype

    @property
    def device(self) -> torch.device:
        return self.data.means.device

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        self.data.to(device, dtype)
        return self

    def __call__(self, x: Tensor, t: Point | Scalar, cond: Cond | None = None) -> Estimate:
        if cond is not None:
            cond.check_names(self.conditions)
        point, data = self.point(t, x), self.data
        alpha, sigma = _column(point.alpha), _column(point.sigma)
        flat = x.flatten(1).to(data.means.dtype)
        residual, log_joint = data._components(flat, alpha, sigma, cond)
        a, s = (v[..., None] if isinstance(v, Tensor) else v for v in (alpha, sigma))
        # E[ε − x0 | x, k] = (σ − αΣ)(α²Σ + σ²)⁻¹(x − αμ) − μ, diagonal in the eigenbasis
        gain = (s - a * data.values) / (a * a * data.values + s * s)
        each = torch.einsum("kij,bkj->bki", data.vectors, gain * residual) - data.means
        out = torch.einsum("bk,bki->bi", torch.softmax(log_joint, dim=1), each)
        return Estimate(x, out.reshape(x.shape).to(x.dtype), KINDS["straight"](point), point)


class MixtureClassifier:
    """``log p(label | x_t)`` of a labelled :class:`GaussianMixture`: what a noise-aware classifier learns."""

    def __init__(self, data: GaussianMixture, schedule: Schedule) -> None:
        if data.labels is None:
            raise InputError("a mixture without labels has no classes to tell apart: give labels=")
        self.data, self.schedule, self.classes = data, schedule, int(data.labels.max()) + 1

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        self.data.to(device, dtype)
        return self

    def __call__(self, x: Tensor, point: Point) -> Tensor:
        """``(B, *shape)`` -> (B, classes), normalised."""
        data = self.data
        assert data.labels is not None
        flat = x.flatten(1).to(data.means.dtype)
        _, log_joint = data._components(flat, _column(point.alpha), _column(point.sigma), None)
        each = [torch.logsumexp(log_joint[:, data.labels == c], dim=1) for c in range(self.classes)]
        return torch.log_softmax(torch.stack(each, dim=1), dim=1).to(x.dtype)


def Gaussian(mean: Tensor, covariance: Tensor) -> GaussianMixture:
    """``N(mean, covariance)``, mean ``(*shape)`` and covariance (d, d): the mixture of one component."""
    return GaussianMixture(torch.ones(1, dtype=mean.dtype), mean[None], covariance[None])


class Empirical(Denoiser):
    """The exact denoiser of a finite data set: a softmax-weighted mean of the data, which at low noise copies its nearest member.

    Args:
        data: ``(N, *shape)``.
        schedule: the path.
        labels: optional class of each member, (N,).
    """

    def __init__(self, data: Tensor, schedule: Schedule, labels: Sequence[int] | Tensor | None = None) -> None:
        self.data, self.schedule, self.shape, self.space = data, schedule, tuple(data.shape[1:]), Identity()
        self.labels = None if labels is None else torch.as_tensor(labels)
        self.conditions = {} if self.labels is None else {"label": Label(int(self.labels.max()) + 1)}

    @property
    def dtype(self) -> torch.dtype:
        return self.data.dtype

    @property
    def device(self) -> torch.device:
        return self.data.device

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        self.data = _placed(self.data, device, self.data.dtype if dtype is None else dtype)
        self.labels = None if self.labels is None else self.labels.to(device)
        return self

    def __call__(self, x: Tensor, t: Point | Scalar, cond: Cond | None = None) -> Estimate:
        if cond is not None:
            cond.check_names(self.conditions)
        point = self.point(t, x)
        if isinstance(point.sigma, float) and point.sigma == 0.0:
            return Estimate(x, x / point.alpha, KINDS["x0"](point), point)
        alpha, sigma = _column(point.alpha), _column(point.sigma)
        data = self.data.flatten(1)
        logits = -(
            (x.flatten(1)[:, None] - (alpha[..., None] if isinstance(alpha, Tensor) else alpha) * data) ** 2
        ).sum(-1)
        logits = logits / (2.0 * sigma * sigma)
        if cond is not None and self.labels is not None and "label" in cond:
            entry = cond["label"]
            logits = logits.masked_fill((self.labels != entry.value[:, None]) & entry.present[:, None], -math.inf)
        x0 = (torch.softmax(logits, dim=1) @ data).reshape(x.shape)
        return Estimate(x, x0, KINDS["x0"](point), point)


def _placed(value: Tensor, device: torch.device | str | None, dtype: torch.dtype) -> Tensor:
    """On a device; numbers in ``dtype``, but for float64 where only the host has it."""
    device = value.device if device is None else torch.device(device)
    if not value.is_floating_point():
        return value.to(device)
    return value.to(torch.float32 if device.type != "cpu" and dtype == torch.float64 else dtype).to(device)


def _column(value: Scalar) -> Scalar:
    """A per-sample coefficient as (B, 1); a number as it is."""
    return value.reshape(-1, 1) if isinstance(value, Tensor) and value.ndim else value
