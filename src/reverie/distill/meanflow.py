"""MeanFlow: a network that says the mean velocity of the flow between two times (Geng et al. 2025, "Mean flows for one-step generative
modeling"), and its improved objective (Geng et al. 2025b, "Improved mean flows").

The mean velocity is ``(τ_t − τ_s)·u(z_t, t, s) = ∫ v dτ`` from τ_s to τ_t. Differentiated along the flow at t (their eq. 6),

    ``u = v − (τ_t − τ_s)·du/dτ_t``,   ``du/dτ_t = ∂u/∂z·v + ∂u/∂τ_t``,

which holds a network to the map's invariance along the flow: z_s = z_t − (τ_t − τ_s)·u stays. The derivative is one forward derivative
with the tangents (v, 1, 0) of (z, t, s), and the target keeps no gradient. Where s = t that is flow matching.

The improved objective (iMF) reads the same equation as a regression on v: ``V = u + (τ_t − τ_s)·sg(du/dτ_t)`` learns v, with the
derivative along what the network itself says of the velocity, u(z, t, t), so that the regression's input is a function of z alone.
Along a teacher's velocity the two are one.
"""

import torch
from torch import Tensor

from reverie.core.batch import Batch, Dataset
from reverie.core.draws import Draws
from reverie.core.jvp import jvp
from reverie.core.task import Moment
from reverie.core.times import LogitNormal
from reverie.distill.flow_config import MeanFlowConfig
from reverie.distill.mapping import Mapping
from reverie.distill.student import Student

SMALLEST = 0.01
"""Added to the squared error by which it is divided (their c)."""


class MeanFlow(Mapping):
    """The task.

    Args:
        model: what is trained.
        config: the settings.
        held_out: data to show beside samples.
    """

    def __init__(self, model: Student, config: MeanFlowConfig, held_out: Dataset | None = None) -> None:
        super().__init__(model, config, held_out)
        self.times, self.apart = LogitNormal(config.times_mean, config.times_std), config.apart
        self.power, self.improved = config.power, config.improved

    def leaps(self, rng: Draws) -> tuple[Tensor, Tensor]:
        """Where leaps begin and end, both (B,): two draws in order, or twice the later."""
        one, two = self.times(rng.even("time")), self.times(rng.uniform("until"))
        late, early = torch.maximum(one, two), torch.minimum(one, two)
        return self.at(late), self.at(torch.where(rng.uniform("apart") < self.apart, early, late))

    def begins(self, rng: Draws, progress: Moment) -> Tensor:
        return self.leaps(rng)[0]

    def loss(self, player: str, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        cond, pair = self.condition(batch, rng), self.pair(batch, rng)
        t, s = self.leaps(rng)
        x = self.noised(*pair, t)
        v = self.velocity(x, t, cond, pair)
        way = v
        if self.improved:
            with torch.no_grad():
                way = self.mean_velocity(x, t, t, cond)
        u, slope = jvp(lambda x, t: self.mean_velocity(x, t, s, cond), (x, t), self.along(x, t, way))
        target = v - (self.tau(t, x) - self.tau(s, x)) * slope.detach()
        return {"meanflow": adaptive(u - target, self.power)}


def adaptive(error: Tensor, power: float, smallest: float = SMALLEST) -> Tensor:
    """The squared error of each sample over a power of itself, ``‖e‖²/sg(‖e‖² + c)ᵖ``: (B, …) -> (B,)."""
    squared = error.float().square().flatten(1).sum(1)
    return squared / (squared.detach() + smallest) ** power
