"""Terminal velocity matching: where a leap ends, it moves as the flow does there (Zhou et al. 2025b, "Terminal velocity matching").

The map's derivative in the time of its end is the velocity at its end, ``∂f(z_t, t, s)/∂τ_s = v(f(z_t, t, s), s)``. With ``f = z_t −
(τ_t − τ_s)·u`` that is ``u − (τ_t − τ_s)·∂u/∂τ_s = v(f, s)``: one forward derivative, in τ_s alone, whose gradient is kept, for the
displacement's error bounds the Wasserstein distance of what is drawn. The other half of the loss holds u at no leap to the velocity.
The velocity at f is the teacher's, or from scratch what a moving average of the student says there at no leap.
"""

import torch
from torch import Tensor

from reverie.core.batch import Batch, Dataset
from reverie.core.condition import Cond
from reverie.core.draws import Draws
from reverie.core.jvp import jvp
from reverie.core.task import Moment
from reverie.core.times import LogitNormal
from reverie.distill.flow_config import TVMConfig
from reverie.distill.mapping import Slowly
from reverie.distill.student import Student


class TVM(Slowly):
    """The task.

    Args:
        model: what is trained.
        config: the settings.
        held_out: data to show beside samples.
    """

    def __init__(self, model: Student, config: TVMConfig, held_out: Dataset | None = None) -> None:
        super().__init__(model, config, held_out)
        self.gaps = LogitNormal(config.gap_mean, config.gap_std)
        self.mean, self.std, self.kept = config.times_mean, config.times_std, config.decay
        self.times = LogitNormal(self.mean, self.std)

    def decay(self, progress: Moment) -> float:
        return self.kept

    def leaps(self, rng: Draws) -> tuple[Tensor, Tensor]:
        """τ of both ends of leaps, each (B,): the length first, then the end, which leaves room for it."""
        gap = self.gaps(rng.even("gap"))
        room = torch.special.ndtr((torch.logit(1.0 - gap) - self.mean) / self.std)
        end = self.times(rng.uniform("until") * room)
        return end + gap, end

    def begins(self, rng: Draws, progress: Moment) -> Tensor:
        return self.at(self.leaps(rng)[0])

    def loss(self, player: str, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        cond, pair = self.condition(batch, rng), self.pair(batch, rng)
        t, s = (self.at(tau) for tau in self.leaps(rng))
        x = self.noised(*pair, t)
        still = self.along(x, s, torch.zeros_like(x))[1]
        u, slope = jvp(lambda s: self.mean_velocity(x, t, s, cond), (s,), (still,))
        with torch.no_grad():
            v = self.terminal(self.moved(x, t, s, u), s, cond)
        error = u - (self.tau(t, x) - self.tau(s, x)) * slope - v
        at = self.at(self.times(rng.even("time")))
        some = self.noised(*pair, at)
        instant = self.mean_velocity(some, at, at, cond) - self.velocity(some, at, cond, pair)
        return {
            name: e.float().square().flatten(1).mean(1) for name, e in {"terminal": error, "velocity": instant}.items()
        }

    def terminal(self, x: Tensor, s: Tensor, cond: Cond | None) -> Tensor:
        """The velocity at the end of leaps."""
        if self.taught:
            return self.model.guided(x, s, cond).linear(-1.0, 1.0)
        return self.slow.estimate(x, s, s, cond).linear(-1.0, 1.0)
