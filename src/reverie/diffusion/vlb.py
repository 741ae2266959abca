"""Training the variational bound of DDPM, alone or beside the simple loss (Nichol & Dhariwal 2021, sections 3.1 and 3.3).

``L_vlb = Σ_t L_t = T·E_t[L_t]`` in bits per dimension, with the terms of :func:`~reverie.solve.variational_bound`. The chain is the
path's own table, or 1,000 steps uniform in time. Only the bound says what variance a reverse move should have.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from reverie.core.batch import Batch
from reverie.core.denoiser import NetDenoiser
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.estimate import Estimate
from reverie.core.paths import Table
from reverie.core.predictions import convert
from reverie.core.processes import gathered
from reverie.core.space import Identity
from reverie.core.task import Moment, Player
from reverie.core.tensors import onto
from reverie.core.times import Steps
from reverie.diffusion.denoising import Denoising
from reverie.solve.bound import Chain, term

STEPS = 1000
"""Moves of the chain on a path that is no table."""


class OnChain(Denoising):
    """What both objectives have: the chain, its terms, and the bound on held-out images.

    Args:
        denoise: of a learned variance, or its moves have the small one.
        levels: the pixels lie on so many equidistant levels in [−1, 1]; None for continuous data, as codes of a space always are.
        others: as of :class:`~reverie.diffusion.Denoising`.

    Raises:
        InputError: when the network's kind says nothing of x0 where the chain begins.
    """

    def __init__(self, denoise: NetDenoiser, *, levels: int | None = 256, **others: Any) -> None:
        path = denoise.schedule
        self.chain = Chain(path, len(path.betas) if isinstance(path, Table) else STEPS)
        start = self.chain.moves[0].at
        convert(denoise.kind(start), (1.0, 0.0), start.alpha, start.sigma)
        super().__init__(denoise, Steps(len(self.chain)), **others)
        self.levels = levels if isinstance(denoise.space, Identity) else None

    def time(self, i: Tensor) -> Tensor:
        """Where the moves i (B,) begin, float64 (B,): move 0 at t = 1."""
        return (len(self.chain) - i).double() / len(self.chain)

    def bits(self, x0: Tensor, estimate: Estimate, i: Tensor) -> Tensor:
        """``L_t`` of the moves i in bits per dimension, (B,)."""
        x0, move = x0.float(), self.chain.at(i, x0)
        fraction = torch.zeros_like(x0) if estimate.variance is None else estimate.variance.float()
        return term(x0, estimate.x0.float(), move.between(fraction), move, self.levels) / (
            x0[0].numel() * math.log(2.0)
        )

    @torch.no_grad()
    def bound(self, batch: Batch, rng: Draws) -> Tensor:
        """An unbiased estimate of the whole bound of each image in bits per dimension, (B,), by two evaluations.

        Beside the prior's and the decoder's term it takes one other, drawn with a probability q ∝ σ²_ts/σ_t²: ``L_T + L_0 + L_t/q``.
        """
        share = torch.tensor([move.pull / move.to.alpha for move in self.chain.moves[:-1]], dtype=torch.float64)
        i = drawn(q := share / share.sum(), rng.even("move"))
        total = torch.zeros(len(batch), device=batch.x.device)
        for moves, weight in ((torch.full_like(i, len(q)), torch.ones_like(q)[i]), (i, 1.0 / q[i])):
            x0, noise = self.pair(batch.x, rng)
            estimate = self.estimate(x0, noise, self.time(moves), batch.cond)
            total += onto(weight, total) * self.bits(x0, estimate, moves)
        return total + self.chain.prior(x0) / (x0[0].numel() * math.log(2.0))

    def validate(self) -> dict[str, float | list[float]]:
        """Besides the squared errors ``vlb``, the bound in bits per dimension."""
        if self.held_out is None:
            return {}
        n, parts = len(self.held_out), []
        for i in range(0, n, 256):
            some = self.held_out.index(slice(i, i + 256)).to(self.denoise.device)
            parts.append(self.bound(some, Draws(0, i, len(some))))
        return {**super().validate(), "vlb": float(torch.cat(parts).cpu().double().mean())}


class Hybrid(OnChain):
    """``L_simple + λ·L_vlb``, λ = .001 (eq. 16). The bound moves the variance alone: in it, the estimate of the mean is held.

    Raises:
        InputError: for a network without a learned variance.
    """

    WEIGHT = 1e-3

    def __init__(self, denoise: NetDenoiser, **others: Any) -> None:
        super().__init__(denoise, **others)
        if not denoise.learned_variance:
            raise InputError("the hybrid objective trains a learned variance: the network has none")

    def loss(self, player: str, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        t = self.times(rng.even("time"))
        x0, noise = self.pair(batch.x, rng)
        estimate = self.estimate(x0, noise, t, self.condition(batch, rng))
        i = len(self.chain) - (t * len(self.chain)).round().long()
        bits = self.bits(x0, estimate.replace(estimate.out.detach()), i)
        return {"mse": self.squared(x0, noise, estimate), "vlb": self.WEIGHT * len(self.chain) * bits}


class VLB(OnChain):
    """``E L_t/p_t``: the terms differ by orders of magnitude, so t is drawn with p_t ∝ √E[L_t²] (eq. 18), from the :class:`History`.

    Args:
        denoise: as of :class:`OnChain`.
        importance: off, t is uniform: the bound as Ho et al. 2020 trained it.
        others: as of :class:`OnChain`.
    """

    def __init__(self, denoise: NetDenoiser, *, importance: bool = True, **others: Any) -> None:
        super().__init__(denoise, **others)
        self.history = History(len(self.chain))
        self.importance = importance
        self.losses: list[Tensor] = []
        if importance:
            self.players = {**self.players, "history": Player(self.history, optim=None, average=False)}

    def loss(self, player: str, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        p = self.history.probabilities()
        i = drawn(p, rng.even("time"))
        x0, noise = self.pair(batch.x, rng)
        estimate = self.estimate(x0, noise, self.time(i), self.condition(batch, rng))
        bits = self.bits(x0, estimate, i)
        self.losses.append(torch.stack([onto(i, bits), bits.detach()], 1))
        return {"vlb": bits / onto(p[i], bits)}

    def after_step(self, progress: Moment) -> None:
        losses = gathered(torch.cat(self.losses)).cpu()
        self.losses.clear()
        if self.importance:
            self.history.enter(losses[:, 0].long(), losses[:, 1])

    def describe(self, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        return {}  # which t were drawn is past: the history has gone on

    def validate(self) -> dict[str, float | list[float]]:
        """As of :class:`OnChain`, and ``loss`` is the bound, as in training."""
        found = super().validate()
        return {**found, "loss": found["vlb"]} if found else {}


class History(nn.Module):
    """The last ten losses of each of T moves, and the probabilities of the next. It reads them on the host, once a step.

    Attributes:
        losses: (T, 10), bits per dimension.
        count: (T,), how many there have been.
    """

    KEPT = 10
    UNIFORM = 1e-3

    losses: Tensor
    count: Tensor

    def __init__(self, moves: int) -> None:
        super().__init__()
        self.register_buffer("losses", torch.zeros(moves, self.KEPT))
        self.register_buffer("count", torch.zeros(moves, dtype=torch.int64))

    def probabilities(self) -> Tensor:
        """``p_t ∝ √mean(L_t²)``, a thousandth of them uniform; uniform until every move has ten losses. (T,), float64 on the host."""
        losses = self.losses.cpu().double()
        uniform = torch.full((len(losses),), 1.0 / len(losses), dtype=torch.float64)
        if int(self.count.min()) < self.KEPT:
            return uniform
        size = losses.square().mean(1).sqrt()
        return torch.lerp(size / size.sum(), uniform, self.UNIFORM)

    def enter(self, moves: Tensor, losses: Tensor) -> None:
        """Losses (n,) of moves (n,) in their order, each in the place of the move's oldest."""
        count, latest = self.count.cpu().tolist(), {}
        for move, loss in zip(moves.tolist(), losses.tolist(), strict=True):
            latest[move, count[move] % self.KEPT] = loss
            count[move] += 1
        rows, places = zip(*latest, strict=True)
        self.losses[list(rows), list(places)] = torch.tensor(list(latest.values())).to(self.losses)
        self.count.copy_(torch.tensor(count))


def drawn(p: Tensor, u: Tensor) -> Tensor:
    """The numbers (B,) that uniforms u (B,) choose with probabilities p (T,), both on the host."""
    return torch.searchsorted(p.cumsum(0), u).clamp(max=len(p) - 1)
