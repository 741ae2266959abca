"""The variational bound of DDPM, term by term (Ho et al. 2020, eq. 5; Nichol & Dhariwal 2021, eq. 4-7).

``−log p(x0) ≤ KL(q(x_T|x0) ‖ prior) + Σ_t KL(q(x_u|x_t,x0) ‖ p(x_u|x_t)) − log p(x0|x_1)`` for ancestral sampling on a grid: the
length in nats of a real code for the data. Both sides of every middle term are Gaussian, with the variance that
:class:`~reverie.solve.DDPM` samples with.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.special import log_ndtr

from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser, Estimate
from reverie.core.errors import InputError, unknown
from reverie.core.noise import NoiseTape, Tape, sample_seeds
from reverie.core.schedules import HostPoint
from reverie.solve import grids
from reverie.solve.grids import Grid
from reverie.solve.sampling import Seeds

Variance = Literal["small", "large", "learned"] | Callable[[Estimate, HostPoint, HostPoint], Tensor]


class VariationalBound(NamedTuple):
    """Nats of each sample: ``prior`` (B,), ``steps`` (B, T−1) from the noisiest to the cleanest, ``decoder`` (B,)."""

    prior: Tensor
    steps: Tensor
    decoder: Tensor

    @property
    def total(self) -> Tensor:
        """Upper bound of −log p(x0), (B,)."""
        return self.prior + self.steps.sum(1) + self.decoder


def variational_bound(
    denoise: Denoiser,
    x: Tensor,
    cond: Cond | None = None,
    steps: int = 1000,
    grid: Grid | str | None = None,
    variance: Variance = "small",
    levels: int | None = 256,
    seed: Seeds = 0,
    tape: NoiseTape | None = None,
) -> VariationalBound:
    """One unbiased draw of the bound: every term at its own x_t ~ q(x_t|x0).

    Args:
        denoise: the model.
        x: ``(B, *denoise.shape)`` in the diffused space.
        cond: one condition for all, or one a sample.
        steps, grid: the chain, uniform in time by default; it ends at clean data and has at least 2 moves.
        variance: of the reverse moves, "small", "large" or "learned" as in :class:`~reverie.solve.DDPM`, or a function
            ``(estimate, at, to) -> (B, …)``, which is asked for the decoder's too. The small variance of the last move is 0: the decoder
            takes that of the move before for it, and "large" decodes with it too.
        levels: the data lies on so many equidistant levels in [−1, 1], and the decoder gives the mass of a bin, the outer ones
            open; None for continuous data, where it is a density.
        seed: as in :func:`sample`; the draws are of stream "probe", one number a term.
        tape: where the noise comes from, in place of the plain tape of ``seed``.

    Raises:
        InputError: for a shape that does not fit, or a grid that does not end at clean data.
    """
    if not callable(variance) and variance not in ("small", "large", "learned"):
        raise unknown("variance", variance, ("small", "large", "learned"))
    if tuple(x.shape[1:]) != tuple(denoise.shape):
        raise InputError(f"x holds samples of shape {tuple(x.shape[1:])}, the model's are {tuple(denoise.shape)}")
    points = grids.named("time" if grid is None else grid)(denoise.schedule, steps)
    if points[-1].sigma != 0.0 or len(points) < 3:
        raise InputError("the bound needs a grid of at least 2 steps that ends at clean data")
    if cond is not None:
        cond.check(denoise.conditions)
        cond = cond.expand(len(x)).to(denoise.device)
    x = x.to(denoise.device)
    tape = Tape(sample_seeds(seed, len(x))) if tape is None else tape
    terms = []
    for number, (at, to) in enumerate(pairwise(points)):
        noise = tape.draw("probe", number, denoise.shape).to(x)
        estimate = denoise(at.alpha * x + at.sigma * noise, at, cond)
        last = to.sigma == 0.0
        small = _posterior(*points[-3:-1]) if last else _posterior(at, to)
        large = _fresh(at, to) * at.sigma**2
        if callable(variance):
            v = variance(estimate, at, to)
        elif variance == "learned":
            if estimate.variance is None:
                raise InputError("variance='learned' needs a network that learned its variance: use 'small' or 'large'")
            v = small ** (1.0 - estimate.variance) * large**estimate.variance
        else:
            v = small if last or variance == "small" else large
        v = torch.as_tensor(v).to(x)
        if last:
            terms.append(_sum(_decoder(x, estimate.x0, v, levels)))
            continue
        ratio = small / v
        pull = (to.alpha * _fresh(at, to)) ** 2 / v
        terms.append(_sum(0.5 * (ratio - 1.0 - torch.log(ratio) + pull * (x - estimate.x0) ** 2)))
    prior = _sum(0.5 * (points[0].alpha / points[0].sigma * x) ** 2)
    return VariationalBound(prior, torch.stack(terms[:-1], 1), terms[-1])


def _fresh(at: HostPoint, to: HostPoint) -> float:
    """σ²_ts/σ_t² = 1 − e^(−2h): the part of the variance at t that has come since u."""
    return -math.expm1(2.0 * (at.lam - to.lam))


def _posterior(at: HostPoint, to: HostPoint) -> float:
    """Variance of q(x_u | x_t, x0)."""
    return _fresh(at, to) * to.sigma**2


def _decoder(x: Tensor, mean: Tensor, variance: Tensor, levels: int | None) -> Tensor:
    """−log p(x0 | x_1) for each value."""
    if levels is None:
        return 0.5 * ((x - mean) ** 2 / variance + torch.log(2.0 * math.pi * variance))
    half, scale = 1.0 / (levels - 1), variance.sqrt()
    # the mass is that of its mirror image, taken in the lower tail where log Φ keeps its digits
    flip = torch.where(x > mean, -1.0, 1.0).to(x)
    high = (flip * (x - mean) + half) / scale
    low = (flip * (x - mean) - half) / scale
    first, last = x < -1.0 + half, x > 1.0 - half
    low = torch.where(torch.where(flip > 0, first, last), -math.inf, low)
    high = torch.where(torch.where(flip > 0, last, first), math.inf, high)
    log_high, log_low = log_ndtr(high), log_ndtr(low)
    return -(log_high + torch.log(-torch.expm1(log_low - log_high)))


def _sum(values: Tensor) -> Tensor:
    """Over everything but the batch; a term may be one number for all values."""
    return values.flatten(1).sum(1)
