"""Shortcut models: a leap is two of half its length (Frans et al. 2025, "One step diffusion via shortcut models").

The mean velocities of a leap and of its halves, of equal length in τ, obey ``u(z_t, t, s) = ½·(u(z_t, t, m) + u(z_m, m, s))`` with
``z_m = z_t − (τ_t − τ_m)·u(z_t, t, m)`` (their eq. 4). Some of a batch learn that, the halves made by a moving average; the others
learn u at no leap, the velocity (eq. 5). Leaps are 2⁻ᵏ long and begin at multiples of their length; halves of the shortest are no
leaps.
"""

import torch
from torch import Tensor

from reverie.core.batch import Batch, Dataset
from reverie.core.condition import Cond
from reverie.core.draws import Draws
from reverie.core.task import Moment
from reverie.distill.flow_config import ShortcutConfig
from reverie.distill.mapping import Slowly
from reverie.distill.student import Student


class Shortcut(Slowly):
    """The task.

    Args:
        model: what is trained.
        config: the settings.
        held_out: data to show beside samples.
    """

    def __init__(self, model: Student, config: ShortcutConfig, held_out: Dataset | None = None) -> None:
        super().__init__(model, config, held_out)
        self.levels, self.bootstrapped, self.kept = config.levels, config.bootstrapped, config.decay

    def decay(self, progress: Moment) -> float:
        return self.kept

    def leaps(self, rng: Draws) -> tuple[Tensor, Tensor, Tensor]:
        """Where leaps begin, their halves meet and they end, each (B,) τ; all three are one for those that learn the velocity."""
        length = 2.0 ** -(rng.uniform("level") * self.levels).floor()
        place = rng.even("time")
        begin = ((place / length).floor() + 1.0) * length
        leaping = rng.uniform("bootstrapped") < self.bootstrapped
        t = torch.where(leaping, begin, place)
        return t, torch.where(leaping, t - 0.5 * length, t), torch.where(leaping, t - length, t)

    def begins(self, rng: Draws, progress: Moment) -> Tensor:
        return self.at(self.leaps(rng)[0])

    def loss(self, player: str, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        cond, pair = self.condition(batch, rng), self.pair(batch, rng)
        tau, middle, end = self.leaps(rng)
        t, m, s = (self.at(v) for v in (tau, middle, end))
        x = self.noised(*pair, t)
        shortest = (tau - middle) < 2.0**-self.levels * 1.5
        with torch.no_grad():
            first = self.halves(x, t, torch.where(shortest, t, m), cond)
            second = self.halves(self.moved(x, t, m, first), m, torch.where(shortest, m, s), cond)
        leaping = (tau > middle).to(x.device).view(-1, *(1,) * (x.ndim - 1))
        target = torch.where(leaping, 0.5 * (first + second), self.velocity(x, t, cond, pair))
        error = self.mean_velocity(x, t, s, cond) - target
        return {"shortcut": error.float().square().flatten(1).mean(1)}

    def halves(self, x: Tensor, t: Tensor, s: Tensor, cond: Cond | None) -> Tensor:
        """What the moving average says of half a leap."""
        return self.slow.estimate(x, t, s, cond).linear(-1.0, 1.0)
