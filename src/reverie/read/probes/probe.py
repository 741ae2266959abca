"""Probes on features: how much of a label can be read off, from how few examples.

A probe is fitted on frozen features, so its accuracy says what the features hold, as far as it can reach: a linear one what lies open, a
perceptron or attention also what is folded. An untrained network of the same kind is the control: it already beats the pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from reverie.core.errors import InputError

T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110,
       2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042)  # fmt: skip
"""97.5 % quantiles of Student's t with 1 … 30 degrees of freedom."""


PENALTIES = (1.0, 30.0, 1000.0)
"""Penalties that :func:`tuned` tries."""


class Interval(NamedTuple):
    """A mean with its 95 % confidence interval over seeds (Student's t)."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.1%} (95 %: {max(self.low, 0.0):.1%} to {min(self.high, 1.0):.1%})"


def interval(values: Sequence[float]) -> Interval:
    """The mean of independent repetitions; with a single one the interval is everything."""
    n, mean = len(values), sum(values) / len(values)
    if n == 1:
        return Interval(mean, -math.inf, math.inf)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))
    half = (T95[n - 2] if n <= 31 else 1.96) * deviation / math.sqrt(n)
    return Interval(mean, mean - half, mean + half)


def check_labels(features: Tensor, labels: Tensor) -> None:
    """Raise an :class:`InputError` unless there is a whole number from 0 on a row of features."""
    if labels.ndim != 1 or labels.is_floating_point() or len(labels) != len(features):
        raise InputError(
            f"labels are class numbers, one a picture: got {labels.dtype} of shape {tuple(labels.shape)} for {len(features)} pictures"
        )
    if len(labels) and int(labels.min()) < 0:
        raise InputError(f"labels are class numbers from 0 on: got {int(labels.min())}")


def few(labels: Tensor, count: int, seed: int = 0) -> Tensor:
    """Rows of ``count`` labelled examples in all, classes balanced as far as that goes, drawn by the seed.

    Raises:
        InputError: when there are more classes than shots, or fewer examples than asked for.
    """
    check_labels(labels, labels)
    classes = labels.unique()
    if count < len(classes):
        raise InputError(f"{count} labels are too few for {len(classes)} classes: give at least one a class")
    if count > len(labels):
        raise InputError(f"{count} labels are asked for, there are {len(labels)} labelled pictures")
    rng = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=rng)
    rank = torch.empty_like(labels)
    for c in classes:
        mine = order[labels[order] == c]
        rank[mine] = torch.arange(len(mine))
    return order[rank[order].argsort(stable=True)][:count]


class Linear(NamedTuple):
    """``argmax(weight·(x − mean)/deviation + bias)``."""

    mean: Tensor
    deviation: Tensor
    weight: Tensor
    bias: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """(N, …) -> (N, classes)."""
        x = (features.flatten(1).float() - self.mean) / self.deviation
        return x @ self.weight + self.bias

    def accuracy(self, features: Tensor, labels: Tensor) -> float:
        return accuracy(self.logits(features), labels)


def linear(features: Tensor, labels: Tensor, classes: int | None = None, penalty: float = 1.0) -> Linear:
    """Logistic regression to its optimum, on features scaled to unit variance: ``Σ cross-entropy + penalty/2·‖weight‖²``.

    The optimum is unique and found by L-BFGS, so nothing but the data decides it.

    Args:
        features: (N, …) float; flattened.
        labels: (N,) class numbers.
        classes: how many; as many as the labels tell by default.
        penalty: of the squared weights.

    Raises:
        InputError: for labels of another length.
    """
    check_labels(features, labels)
    classes = int(labels.max()) + 1 if classes is None else classes
    x = features.detach().flatten(1).float()
    mean, deviation = x.mean(0), x.std(0, correction=0).clamp_min(1e-6)
    x = (x - mean) / deviation
    basis = None
    if x.shape[1] > len(x):  # the optimum lies in the span of the examples
        basis = torch.linalg.qr(x.T).Q
        x = x @ basis
    with torch.enable_grad():
        weight = torch.zeros(x.shape[1], classes, requires_grad=True)
        bias = torch.zeros(classes, requires_grad=True)
        solver = torch.optim.LBFGS([weight, bias], max_iter=200, tolerance_grad=1e-5, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            solver.zero_grad()
            value = F.cross_entropy(x @ weight + bias, labels) + 0.5 * penalty / len(x) * weight.square().sum()
            value.backward()
            return value

        solver.step(loss)  # pyright: ignore[reportArgumentType]
    found = weight.detach() if basis is None else basis @ weight.detach()
    return Linear(mean, deviation, found, bias.detach())


def tuned(features: Tensor, labels: Tensor, chosen_by: tuple[Tensor, Tensor], classes: int | None = None) -> Linear:
    """:func:`linear` with that one of :data:`PENALTIES` that does best on other pictures: a thousand numbers a picture want a stronger one.

    Args:
        features: (N, …) float; flattened.
        labels: (N,) class numbers.
        chosen_by: features (M, …) and labels (M,) of the other pictures; the accuracy on them is too good, as it has been chosen.
        classes: how many; as many as the labels tell by default.

    Raises:
        InputError: for labels of another length.
    """
    check_labels(*chosen_by)
    fits = [linear(features, labels, classes, penalty) for penalty in PENALTIES]
    return max(fits, key=lambda fit: fit.accuracy(*chosen_by))


def neighbours(
    features: Tensor, labels: Tensor, queries: Tensor, k: int = 20, temperature: float = 0.07, classes: int | None = None
) -> Tensor:  # fmt: skip
    """Votes of the k nearest neighbours by cosine, each weighted by ``exp(cosine/temperature)`` (Wu et al. 2018).

    Args:
        features: (N, …), what is known.
        labels: (N,) class numbers.
        queries: (M, …).
        k: neighbours; at most N.

    Returns:
        (M, classes).

    Raises:
        InputError: for labels of another length.
    """
    check_labels(features, labels)
    known, asked = (F.normalize(v.flatten(1).float() - features.flatten(1).mean(0), dim=1) for v in (features, queries))
    similar, rows = (asked @ known.T).topk(min(k, len(known)), dim=1)
    votes = torch.zeros(len(asked), int(labels.max()) + 1 if classes is None else classes)
    return votes.scatter_add_(1, labels[rows], ((similar - 1.0) / temperature).exp())


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """The share of rows whose largest entry is the label."""
    check_labels(logits, labels)
    return (logits.argmax(1) == labels).cpu().double().mean().item()
