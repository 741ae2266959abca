"""Moment matching: of all that is noised to one state, the student's samples have the same mean as the data (Salimans, Mensink, Heek &
Hoogeboom, "Multistep distillation of diffusion models via moment matching", NeurIPS 2024, algorithm 2, the alternating variant).

The student cleans data noised to a point t of its grid, ``x̃ = G(z_t)``, and x̃ is noised again by the posterior ``q(z_s | z_t, x̃)`` to a
time s less than a step below. An auxiliary network φ learns ``E[x̃ | z_s]`` and stays near the teacher; the student goes against what sets
the two apart:

    φ:  w_s·(‖x̃ − φ(z_s)‖² + ‖φ(z_s) − D_teacher(z_s)‖²),      student:  w_s·x̃ᵀ·sg[φ(z_s) − D_teacher(z_s)].

w_s is the weight that makes the squared error of x0 that of what the network predicts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from reverie.core.batch import Batch, Dataset
from reverie.core.draws import Draws
from reverie.core.predictions import Kind
from reverie.core.schedules import Point
from reverie.core.task import Moment, Optim, Player
from reverie.core.tensors import Scalar, combine, onto
from reverie.distill.matching import Matching, picked
from reverie.distill.student import Student, twin


class Moments(Matching):
    """The auxiliary network and the student in turn.

    Args:
        model: the student.
        steps, grid: that it is made for.
        aux_lr: learning rate of the auxiliary network; the recipe's without.
        held_out: data to show beside samples.
    """

    def __init__(
        self,
        model: Student,
        steps: int = 1,
        grid: str = "time",
        *,
        aux_lr: float | None = None,
        held_out: Dataset | None = None,
    ) -> None:
        super().__init__(model, steps, grid, held_out=held_out)
        self.aux = twin(model.teacher)  # pyright: ignore[reportArgumentType]
        aux = Player(self.aux.net, optim=Optim(lr=aux_lr), average=False)
        self.players = {"auxiliary": aux, **self.players}

    def loss(self, player: str, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        x0, noise = self.pair(batch, rng)
        i = (rng.even("start") * len(self.points)).long()
        at = picked(self.points, i, x0)
        z_t = combine((at.alpha, at.sigma), (x0, noise))
        with torch.set_grad_enabled(player == "student"):
            x = self.leap(z_t, at, batch)
        s = self.below(i, rng)
        to = self.model.schedule.point(s).align(x)
        with torch.no_grad():
            z_s = posterior(x, z_t, at, to, onto(rng.normal("again", x.shape[1:]), x))
            teacher = self.model.guided(z_s, to, batch.cond).x0
        weight = weight_of(self.aux.kind, to)
        if player == "student":
            with torch.no_grad():
                apart = self.aux(z_s, to, batch.cond).x0 - teacher
            return {"moment": (weight * x * apart).flatten(1).mean(1)}
        said = self.aux(z_s, to, batch.cond).x0
        both = (x - said).square(), (said - teacher).square()
        return {name: (weight * e).flatten(1).mean(1) for name, e in zip(("samples", "teacher"), both, strict=True)}

    def below(self, i: Tensor, rng: Draws) -> Tensor:
        """Times s (B,) uniform over the step that begins at the point i."""
        ends = torch.tensor([point.t for point in (*self.points, self.clean)], dtype=torch.float64)
        return ends[i] + (ends[i + 1] - ends[i]) * rng.uniform("below")


def posterior(x: Tensor, z: Tensor, at: Point, to: Point, noise: Tensor) -> Tensor:
    """A draw of ``q(z_s | z_t, x)`` by standard noise, all (B, …) (Ho et al. 2020, eq. 7, on any path)."""
    step = at.alpha / to.alpha
    kept = (to.sigma / at.sigma) ** 2
    fresh = 1.0 - step**2 * kept  # σ²_{t|s}/σ_t²
    return combine((to.alpha * fresh, step * kept, to.sigma * fresh**0.5), (x, z, noise))


def weight_of(kind: Kind, point: Point) -> Scalar:
    """``((q·α − p·σ)/σ)²``: an error of x0 is so much smaller, squared, than that of ``p·x0 + q·ε`` (σ > 0)."""
    p, q = kind(point)
    return ((q * point.alpha - p * point.sigma) / point.sigma) ** 2
