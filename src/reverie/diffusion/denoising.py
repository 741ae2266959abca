"""Training a denoiser: regress the network on ``p·x0 + q·ε`` at a random time (Ho et al. 2020, algorithm 1; Lipman et al. 2023).

``E w(λ)·‖(p, q)-prediction(x_t) − (p·x0 + q·ε)‖²`` with x_t = α(t)·x0 + σ(t)·ε. The density of t, the weight w, the coupling of x0 with ε
and the kind in which the error is measured are separate choices.
"""

import copy
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from reverie.core.batch import Batch
from reverie.core.condition import Cond, Vector
from reverie.core.denoiser import NetDenoiser
from reverie.core.draws import Draws
from reverie.core.estimate import Estimate
from reverie.core.predictions import Kind, kind
from reverie.core.progress import track
from reverie.core.task import Moment, Player, Preview, Task
from reverie.core.tensors import combine, onto
from reverie.core.times import TimeSampler
from reverie.data import order
from reverie.diffusion.augment import CHANGES, TOLD, drawn
from reverie.diffusion.texts import along, reader_of, with_gaps

Weight = Callable[[Tensor], Tensor]
"""λ (B,) -> the weight of the squared error, (B,)."""

Coupling = Callable[[Tensor, Tensor], Tensor]
"""(x0, ε), both (B, …) -> the ε that each x0 meets."""


def one(lam: Tensor) -> Tensor:
    """The plain squared error."""
    return torch.ones_like(lam)


def independent(x0: Tensor, noise: Tensor) -> Tensor:
    """Any x0 meets any ε."""
    return noise


class Denoising(Task):
    """The diffusion task.

    Args:
        denoise: the network on its path; its condition is dropped at random so that it can be guided. Its own text encoder is trained along
            with it.
        times: the density of t.
        drop: share of the images whose condition is dropped (Ho & Salimans 2022).
        loss_kind: the kind in which the error is measured; the network's own by default.
        weight: of the squared error.
        coupling: how x0 meets ε.
        word_drop: share of the words of a text that its own text encoder does not hear, :func:`reverie.diffusion.texts.with_gaps`.
        augment: probability of each change of the images of which the network is told, see :mod:`reverie.diffusion.augment`.
        coded: batches hold codes of the denoiser's space in place of images.
        held_out: images to validate on, each at a fixed time and noise.
        show: draws the images of :meth:`preview` from the denoiser.
    """

    BINS = 8

    def __init__(
        self,
        denoise: NetDenoiser,
        times: TimeSampler,
        *,
        drop: float = 0.1,
        loss_kind: str | Kind | None = None,
        weight: Weight = one,
        coupling: Coupling = independent,
        word_drop: float = 0.0,
        augment: float = 0.0,
        coded: bool = False,
        held_out: Batch | None = None,
        show: Callable[[NetDenoiser], Preview] | None = None,
    ) -> None:
        self.denoise, self.times, self.drop, self.weight, self.coupling = denoise, times, drop, weight, coupling
        self.kind = denoise.kind if loss_kind is None else kind(loss_kind, denoise.data_std)
        self.coded, self.held_out, self.show = coded, held_out, show
        self.augment, self.shown, self.word_drop = augment, denoise, word_drop
        if augment:
            self.denoise = copy.copy(denoise)
            self.denoise.conditions = {**denoise.conditions, CHANGES: Vector(TOLD)}
        self.players = {"denoiser": Player(denoise.net)}
        if (own := reader_of(denoise)) is not None:
            self.players["text"] = along(own, "denoiser")

    def loss(self, player: str, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        cond = self.condition(batch, rng)
        if self.augment:
            change = drawn(rng, self.augment, batch.x)
            batch = replace(batch, x=change(batch.x))
            cond = Cond(**{**{name: cond[name] for name in cond or ()}, CHANGES: change.told()})  # pyright: ignore[reportOptionalSubscript]
        return {"mse": self.batch_errors(batch, self.times(rng.even("time")), rng, cond)}

    def condition(self, batch: Batch, rng: Draws) -> Cond | None:
        """The conditions of a batch, some dropped."""
        cond = batch.cond if self.word_drop == 0.0 else with_gaps(batch.cond, self.word_drop, rng)
        if cond is None or self.drop == 0.0:
            return cond
        return cond.drop((rng.uniform("drop") >= self.drop).to(batch.x.device))

    def batch_errors(self, batch: Batch, t: Tensor, rng: Draws, cond: Cond | None) -> Tensor:
        """:meth:`errors` of a batch, for a task that takes more of it than the images."""
        return self.errors(batch.x, t, rng, cond)

    def errors(self, images: Tensor, t: Tensor, rng: Draws, cond: Cond | None) -> Tensor:
        """The weighted squared error of each image at its time, mean over pixels: (B, C, H, W) and float64 (B,) -> (B,)."""
        return self.weighted(*self.pair(images, rng), t, cond)

    def weighted(self, x0: Tensor, noise: Tensor, t: Tensor, cond: Cond | None) -> Tensor:
        """The weighted squared error between x0 and ε, both (B, …), at float64 t (B,), mean over dimensions: (B,)."""
        weight = onto(self.weight(self.denoise.schedule.lam(t)), x0)
        return weight * self.squared(x0, noise, self.estimate(x0, noise, t, cond))

    def pair(self, images: Tensor, rng: Draws) -> tuple[Tensor, Tensor]:
        """x0 and the ε that it meets, both (B, …) in the diffused space."""
        x0 = images if self.coded else self.denoise.space.to(images.device).encode(images)
        return x0, self.coupling(x0, onto(rng.normal("noise", x0.shape[1:]), x0))

    def estimate(self, x0: Tensor, noise: Tensor, t: Tensor, cond: Cond | None) -> Estimate:
        """What the denoiser says of ``α(t)·x0 + σ(t)·ε``."""
        point = self.denoise.schedule.point(t).align(x0)
        return self.denoise(combine((point.alpha, point.sigma), (x0, noise)), point, cond)

    def squared(self, x0: Tensor, noise: Tensor, estimate: Estimate, where: Tensor | None = None) -> Tensor:
        """The squared error of an estimate, mean over pixels, or over those ``where`` (B, 1, H, W) is 1 and not 0: (B,)."""
        pair = self.kind(estimate.point)
        out = estimate.out if self.kind == self.denoise.kind else estimate.linear(*pair)
        error = (out - combine(pair, (x0, noise))).float().square()
        if where is None:
            return error.flatten(1).mean(1)
        return (where * error).flatten(1).sum(1) / where.expand_as(error).flatten(1).sum(1)

    def describe(self, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        return {"logsnr": 2.0 * self.denoise.schedule.lam(self.times(rng.even("time")))}

    def validate(self) -> dict[str, float | list[float]]:
        """Loss on held-out images: ``loss``, and ``bins`` of it, of equal weight under the density of t, centred on ``logsnr``.

        Of a model of texts also ``exchanged``, the loss where each image is told the text of another: it is higher where the model listens.
        """
        if self.held_out is None:
            return {}
        n = len(self.held_out)
        u = (order.indices(0, 0, n, n).double() + 0.5) / n
        errors = self._errors(self.held_out, u)
        exchanged = {}
        if "text" in self.players and self.held_out.cond is not None:
            told = self.held_out.cond.index((torch.arange(n) + n // 2) % n)
            exchanged = {"exchanged": float(self._errors(replace(self.held_out, cond=told), u).mean())}
        bins = [float(errors[(u * self.BINS).long() == b].mean()) for b in range(self.BINS)]
        centres = self.times((torch.arange(self.BINS, dtype=torch.float64) + 0.5) / self.BINS)
        logsnr: list[float] = (2.0 * self.denoise.schedule.lam(centres)).tolist()
        return {"loss": float(errors.mean()), **exchanged, "logsnr": logsnr, "bins": bins}

    def _errors(self, data: Batch, u: Tensor) -> Tensor:
        """Of each image at the time of u (N,), float64 on the host."""
        parts: list[Tensor] = []
        for i in track(range(0, len(data), 256), "validating", -(-len(data) // 256), "batches"):
            part = slice(i, min(i + 256, len(data)))
            rng = Draws(0, part.start, part.stop - part.start)
            some = data.index(part).to(self.denoise.device)
            parts.append(self.batch_errors(some, self.times(u[part]), rng, some.cond))
        return torch.cat(parts).cpu().double()

    def preview(self) -> Preview | None:
        return None if self.show is None else self.show(self.shown)
