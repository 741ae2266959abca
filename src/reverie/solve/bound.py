"""The variational bound of DDPM, term by term (Ho et al. 2020, eq. 5; Nichol & Dhariwal 2021, eq. 4-7).

``−log p(x0) ≤ KL(q(x_T|x0) ‖ prior) + Σ_t KL(q(x_u|x_t,x0) ‖ p(x_u|x_t)) − log p(x0|x_1)`` for ancestral sampling on a grid: the
length in nats of a real code for the data. Both sides of every middle term are Gaussian, with the variance that
:class:`~reverie.solve.DDPM` samples with.
"""

import math
from collections.abc import Callable
from functools import cached_property
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.special import log_ndtr

from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser
from reverie.core.errors import InputError, unknown
from reverie.core.estimate import Estimate
from reverie.core.noise import NoiseTape, Tape, sample_seeds
from reverie.core.schedules import HostPoint, Point, Schedule
from reverie.core.tensors import Scalar, align, onto
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
    chain = Chain(denoise.schedule, steps, grid)
    if cond is not None:
        cond.check(denoise.conditions)
        cond = cond.expand(len(x)).to(denoise.device)
    x = x.to(denoise.device)
    tape = Tape(sample_seeds(seed, len(x))) if tape is None else tape
    terms = []
    for number, move in enumerate(chain.moves):
        noise = tape.draw("probe", number, denoise.shape).to(x)
        estimate = denoise(move.at.alpha * x + move.at.sigma * noise, move.at, cond)
        terms.append(term(x, estimate.x0, onto(_log_variance(estimate, move, variance), x), move, levels))
    return VariationalBound(chain.prior(x), torch.stack(terms[:-1], 1), terms[-1])


class Move(NamedTuple):
    """A reverse move t→u: host floats, or tensors that broadcast over samples of which each makes a move of its own.

    Args:
        at, to: where it begins and ends.
        log_small: log variance of q(x_u | x_t, x0); of the last move, whose own is 0, that of the move before.
        log_large: log σ²_ts.
        pull: α_u·σ²_ts/σ_t², the share of x0 in the mean.
        last: whether it ends at clean data, so that its term is the decoder's; (B,) on the host for several.
    """

    at: Point
    to: Point
    log_small: Scalar
    log_large: Scalar
    pull: Scalar
    last: bool | Tensor

    def between(self, fraction: Tensor) -> Tensor:
        """The log variance at a fraction of the way from the small to the large one (Nichol & Dhariwal 2021, eq. 15)."""
        return self.log_small + fraction * (self.log_large - self.log_small)


class Chain:
    """The moves of ancestral sampling on a grid, from the noisiest to the cleanest.

    Args:
        schedule: the path.
        steps: number of moves, at least 2.
        grid: where they are; uniform in time by default.

    Raises:
        InputError: for a grid that does not end at clean data, or has a single move.
    """

    def __init__(self, schedule: Schedule, steps: int, grid: Grid | str | None = None) -> None:
        points = grids.named("time" if grid is None else grid)(schedule, steps)
        if points[-1].sigma != 0.0 or len(points) < 3:
            raise InputError("the bound needs a grid of at least 2 steps that ends at clean data")
        pairs = list(pairwise(points))
        posteriors = [math.log(_fresh(at, to) * to.sigma**2) for at, to in pairs[:-1]]
        self.moves = [
            Move(at, to, small, math.log(_fresh(at, to) * at.sigma**2), to.alpha * _fresh(at, to), to.sigma == 0.0)
            for (at, to), small in zip(pairs, [*posteriors, posteriors[-1]], strict=True)
        ]

    def __len__(self) -> int:
        return len(self.moves)

    def at(self, i: Tensor, x: Tensor) -> Move:
        """The moves of numbers ``i`` (B,), on the host, for samples ``x`` (B, …)."""
        ends, *fields = self._fields
        at, to = (Point(*(align(column, x) for column in end[:, i])) for end in ends)
        small, large, pull = (align(field[i], x) for field in fields)
        return Move(at, to, small, large, pull, i == len(self) - 1)

    @cached_property
    def _fields(self) -> tuple[Tensor, ...]:
        """Both ends of all moves (2, 6, T), and ``log_small``, ``log_large`` and ``pull`` (T,), float64."""
        at, to, *fields, _ = zip(*self.moves, strict=True)
        ends = torch.tensor([at, to], dtype=torch.float64, device="cpu").mT
        return ends, *(torch.tensor(field, dtype=torch.float64, device="cpu") for field in fields)

    def prior(self, x: Tensor) -> Tensor:
        """KL(q(x_T|x0) ‖ N(0, σ_T²)) of samples x (B, …), (B,)."""
        start = self.moves[0].at
        return _sum(0.5 * (start.alpha / start.sigma * x) ** 2)


def term(x: Tensor, mean: Tensor, log_variance: Tensor, move: Move, levels: int | None = 256) -> Tensor:
    """Nats of a move for each sample, (B,): the divergence of the two Gaussians, of the last move the decoder's −log p(x0 | x_1).

    Args:
        x: x0, (B, …).
        mean: its estimate, (B, …).
        log_variance: of p(x_u | x_t), broadcasting over x.
        move: one for all, or one a sample.
        levels: as in :func:`variational_bound`.
    """
    excess = move.log_small - log_variance
    pull = move.pull**2 * torch.exp(-log_variance)
    nats = _sum(0.5 * (torch.expm1(excess) - excess + pull * (x - mean) ** 2))
    rows = torch.as_tensor(move.last, device="cpu").expand(len(x)).nonzero().flatten()
    if not len(rows):
        return nats
    rows = rows.to(x.device)
    decoded = _decoder(x[rows], mean[rows], torch.exp(log_variance.expand_as(x)[rows]), levels)
    return nats.index_copy(0, rows, _sum(decoded).to(nats))


def _log_variance(estimate: Estimate, move: Move, variance: Variance) -> Tensor:
    if callable(variance):
        return torch.log(torch.as_tensor(variance(estimate, move.at, move.to)))
    if variance == "learned":
        if estimate.variance is None:
            raise InputError("variance='learned' needs a network that learned its variance: use 'small' or 'large'")
        return move.between(estimate.variance)
    chosen = move.log_small if move.last or variance == "small" else move.log_large
    return torch.tensor(chosen, dtype=torch.float64, device="cpu")


def _fresh(at: HostPoint, to: HostPoint) -> float:
    """σ²_ts/σ_t² = 1 − e^(−2h): the part of the variance at t that has come since u."""
    return -math.expm1(2.0 * (at.lam - to.lam))


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
