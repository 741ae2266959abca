"""Drifting: the student's samples drift, while it trains, to where data is denser than they are (Deng, Li, Li, Du & He, "Generative
modeling via drifting", 2026, arXiv:2602.04770).

With positives y⁺ (data) and negatives y⁻ (the other samples), affinities ``a = √(softmax over y · softmax over x)`` of −‖x − y‖/τ,

    V(x) = Σ a⁺·(Σa⁻)·y⁺ − a⁻·(Σa⁺)·y⁻,   L = ‖x − sg(x + V)‖²,

V is summed over τ = R·(mean distance), each brought to unit root mean square; samples meet those of their own class. No ODE, no teacher:
that one only lends its features, in which distances are taken besides those of the samples themselves.

Their normalisation depends on x, so V is no gradient. Franz, Hoffmann, Weiland, Schölkopf & Martius, "Drifting fields are not
conservative", 2026, arXiv:2604.06333: with the "sharp" kernel k♯, for which ``∇k♯(x, y) = k(x, y)·(y − x)``, as the normaliser it is
one, a difference of two scores of kernel density estimates, of the potential

    Φ(x) = log Σ k♯(x, y⁻) − log Σ k♯(x, y⁺),   V♯ = −∇Φ,   k♯ = τ·(r + τ)·e^{−r/τ} for k = e^{−r/τ},

which is descended itself (the formula for this kernel was derived here, from their abstract).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from reverie.core.batch import Batch, Dataset
from reverie.core.draws import Draws
from reverie.core.task import Moment
from reverie.distill.adversarial import Looks
from reverie.distill.matching import Matching
from reverie.distill.student import Student

Field = Literal["paper", "sharp"]
RADII: Mapping[Field, Sequence[float]] = {"paper": (0.02, 0.05, 0.2), "sharp": (0.2, 0.5)}
"""R, of the mean distance: the paper's; and wider ones for the sharp field, which the nearest point alone steers at small R."""


def field(x: Tensor, positive: Tensor, negative: Tensor, tau: float | Tensor, among: Tensor | None = None) -> Tensor:
    """V of samples x (N, d), by the paper.

    Args:
        x: samples.
        positive: (M, d).
        negative: (N, d), the samples themselves: none meets itself.
        tau: temperature of the affinities.
        among: (N, M + N) bool, which of positives and negatives a sample meets; all others without.
    """
    logits = _logits(x, positive, negative, among) / tau
    a = (logits.softmax(1) * logits.softmax(0)).sqrt()
    near, far = a.split([len(positive), len(negative)], 1)
    return near * far.sum(1, keepdim=True) @ positive - far * near.sum(1, keepdim=True) @ negative


def potential(
    x: Tensor, positive: Tensor, negative: Tensor, tau: float | Tensor, among: Tensor | None = None
) -> Tensor:
    """Φ (N,) of samples x (N, d), whose negative gradient is the sharp field; arguments as of :func:`field`."""
    logits = _logits(x, positive, negative, among)
    sharp = logits / tau + torch.log(tau - logits)
    near, far = sharp.split([len(positive), len(negative)], 1)
    return far.logsumexp(1) - near.logsumexp(1) + math.log(len(positive) / max(len(negative) - 1, 1))


def _logits(x: Tensor, positive: Tensor, negative: Tensor, among: Tensor | None) -> Tensor:
    """−‖x − y‖ for positives and negatives, far below all others where the two do not meet."""
    distance = torch.cat([_apart(x, positive), _apart(x, negative)], 1)
    hidden = torch.cat([torch.zeros(len(x), len(positive), device=x.device), torch.eye(len(x), device=x.device)], 1) > 0
    return -distance.masked_fill(hidden if among is None else hidden | ~among, 1e6)


def _apart(x: Tensor, y: Tensor) -> Tensor:
    """Distances (N, M), of finite slope everywhere."""
    squared = x.square().sum(1, keepdim=True) + y.square().sum(1) - 2.0 * x @ y.T
    return squared.clamp(min=1e-12).sqrt()


def mean_distance(x: Tensor, positive: Tensor) -> Tensor:
    """Between samples and data."""
    return _apart(x, positive).mean()


class Drifting(Matching):
    """A generator of one step alone.

    Args:
        model: the student.
        looks: features to drift in besides the samples themselves.
        by: the paper's field, or the potential of the sharp one.
        radii: R of each temperature; those of the field without.
        held_out: data to show beside samples.
    """

    def __init__(
        self,
        model: Student,
        *,
        looks: Looks | None = None,
        by: Field = "paper",
        radii: Sequence[float] | None = None,
        held_out: Dataset | None = None,
    ) -> None:
        super().__init__(model, held_out=held_out)
        self.looks, self.radii = looks, RADII[by] if radii is None else radii
        self.towards: Callable[..., Tensor] = self._drifted if by == "paper" else self._descended

    def loss(self, player: str, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        x, real = self.made(batch, rng, progress), self.codes(batch)
        among = None if batch.label is None else (batch.label[:, None] == batch.label).repeat(1, 2)
        noise = rng.normal("seen", self.model.shape).to(x)
        mine, theirs = self._features(x, noise, batch), self._features(real, noise, batch)
        return {name: self.towards(mine[name], theirs[name].detach(), among) for name in mine}

    def _features(self, x: Tensor, noise: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        seen = {} if self.looks is None else self.looks(x, noise, batch)
        return {"samples": x.flatten(1), **{name: value.flatten(1) for name, value in seen.items()}}

    def _drifted(self, x: Tensor, positive: Tensor, among: Tensor | None) -> Tensor:
        with torch.no_grad():
            size, drift = mean_distance(x, positive), torch.zeros_like(x)
            for radius in self.radii:
                v = field(x, positive, x, radius * size, among)
                drift = drift + v / v.square().mean().sqrt()
            goal = x / size + drift / math.sqrt(x.shape[1])
        return (x / size - goal).square().sum(1)

    def _descended(self, x: Tensor, positive: Tensor, among: Tensor | None) -> Tensor:
        size, fixed = mean_distance(x, positive).detach(), x.detach()
        each = [radius * potential(x / size, positive / size, fixed / size, radius, among) for radius in self.radii]
        return torch.stack(each).sum(0)
