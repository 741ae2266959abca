"""Discretised mixtures of logistics over a few levels at once (Salimans et al. 2017, "PixelCNN++", arXiv:1701.05517, section 2).

With weights πₖ, means μₖᵢ that shift linearly with the earlier values of the group, and scales sₖᵢ,

    p(x₁ … xₙ) = Σₖ πₖ Πᵢ [σ((xᵢ + δ − mₖᵢ)/sₖᵢ) − σ((xᵢ − δ − mₖᵢ)/sₖᵢ)],   mₖᵢ = μₖᵢ + Σⱼ﹤ᵢ cₖᵢⱼ xⱼ,

where δ is half a bin, and the outer bins reach to infinity. The difference of the sigmoids of a > b is σ(a)·σ(−b)·(1 − e^(b − a)), whose
logarithm is exact also where both are near 0 or 1, and b − a = −2δ/s holds no difference of large numbers: no case needs an approximation.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.families.autoregressive import Chain
from reverie.families.layout import value

NARROWEST = -7.0
"""Least logarithm of a scale."""


class Components(NamedTuple):
    """Log-weights (…, K); means and log-scales (…, K, n); coefficients (…, K, n, n), below the diagonal."""

    log_weight: Tensor
    mean: Tensor
    log_scale: Tensor
    shift: Tensor


def log_bin(level: Tensor, mean: Tensor, log_scale: Tensor, levels: int) -> Tensor:
    """The log-probability of a level's bin under a logistic; all broadcast."""
    x, half = value(level, levels, mean.dtype), 1.0 / (levels - 1)
    rate = (-log_scale).exp()
    upper, lower = (x + half - mean) * rate, (x - half - mean) * rate
    least, most = level == 0, level == levels - 1
    zero = torch.zeros((), dtype=mean.dtype, device=mean.device)
    width = torch.log(-torch.expm1(-2.0 * half * rate))
    below = torch.where(most, zero, F.logsigmoid(upper))
    above = torch.where(least, zero, F.logsigmoid(-lower))
    return below + above + torch.where(least | most, zero, width)


class LogisticMixture(nn.Module):
    """From features of a place to the distribution of its ``values`` levels.

    Args:
        inputs: features.
        values: levels at a place: the colours of a pixel, or all of a tile.
        components: of the mixture.
        levels: that each value has.
    """

    def __init__(self, inputs: int, values: int, components: int, levels: int) -> None:
        super().__init__()
        self.values, self.components, self.levels = values, components, levels
        pairs = values * (values - 1) // 2
        self.sizes = (1, values, values, pairs)
        self.out = nn.Linear(inputs, components * sum(self.sizes))
        self.register_buffer("earlier", torch.tril_indices(values, values, -1), persistent=False)
        self.earlier: Tensor
        with torch.no_grad():
            bias = self.out.bias.view(components, -1)
            bias[:, 1 : 1 + values] = torch.linspace(-1.0, 1.0, components)[:, None]
            bias[:, 1 + values : 1 + 2 * values] = -2.0

    def forward(self, features: Tensor) -> Components:
        """(…, inputs) -> the components."""
        parts = self.out(features).unflatten(-1, (self.components, -1)).split(self.sizes, -1)
        weight, mean, log_scale, pairs = parts
        shift = pairs.new_zeros(*pairs.shape[:-1], self.values, self.values)
        shift[..., self.earlier[0], self.earlier[1]] = pairs.tanh()
        return Components(weight[..., 0].log_softmax(-1), mean, log_scale.clamp(min=NARROWEST), shift)

    def log_prob(self, features: Tensor, levels: Tensor) -> Tensor:
        """Features (…, inputs), levels (…, values) -> nats (…)."""
        of = self(features)
        x = value(levels, self.levels, of.mean.dtype)
        mean = of.mean + (of.shift @ x[..., None, :, None])[..., 0]
        bins = log_bin(levels[..., None, :], mean, of.log_scale, self.levels)
        return (of.log_weight + bins.sum(-1)).logsumexp(-1)

    def chain(self, features: Tensor) -> Chain:
        """A value at a time, from features (n, inputs): the weights of the components follow what came. Returns the levels (n, values)."""
        weight, mean, log_scale, shift = self(features)
        every = torch.arange(self.levels, device=features.device)
        levels = torch.zeros(len(features), self.values, dtype=torch.long, device=features.device)
        x = features.new_zeros(len(features), self.values)
        for i in range(self.values):
            centre = mean[..., i] + (shift[:, :, i] @ x[..., None])[..., 0]
            bins = log_bin(every, centre[..., None], log_scale[..., i, None], self.levels)
            level = levels[:, i] = yield (weight[..., None] + bins).logsumexp(1)
            x[:, i] = value(level, self.levels, x.dtype)
            came = level[:, None, None].expand(-1, self.components, 1)
            weight = (weight + bins.gather(2, came)[..., 0]).log_softmax(-1)
        return levels
