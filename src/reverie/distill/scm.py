"""Consistency models in continuous time (Lu & Song 2024, "Simplifying, stabilizing and scaling continuous-time consistency models").

Their TrigFlow is any path in the angle φ = atan(σ/(s·α)), s the standard deviation of the data: ``z = cos φ·x0 + sin φ·s·ε`` is
``x/√(α² + σ²/s²)``. With the velocity ``s·F = cos φ·s·ε − sin φ·x0``, of which the network's own kind is a linear reading, the
consistency function is ``f = cos φ·z − sin φ·s·F``, and along the flow (their eq. 6)

    ``df/dφ = −cos φ·(s·F − dz/dφ) − sin φ·(z + s·dF/dφ)``,

which is zero for the exact map. dz/dφ is the teacher's velocity (sCD) or that of one sample and its noise (sCT). F descends along the
tangent ``g = cos φ·df/dφ``, whose second part is multiplied by r, rising from 0 to 1, and which is divided by ``‖g‖ + 0.1``: ``e^w/D·‖F
− sg(F) − sg(g)‖² − w`` with w(φ) learned beside (section 4, algorithm 1).
"""

import torch
from torch import Tensor, nn

from reverie.core.batch import Batch, Dataset
from reverie.core.condition import Cond
from reverie.core.draws import Draws
from reverie.core.jvp import jvp
from reverie.core.task import Moment, Player
from reverie.core.tensors import onto
from reverie.core.times import LogNormalSigma
from reverie.distill.flow_config import SCMConfig
from reverie.distill.mapping import Mapping
from reverie.distill.student import Student
from reverie.nets.embeddings import sinusoids

SMALLEST = 0.1
"""Added to the tangent's norm (their c)."""


class Weighting(nn.Module):
    """w(φ): how much the errors at an angle weigh, learned so that all come to weigh alike (Karras et al. 2024, appendix B.3)."""

    def __init__(self, frequencies: int = 64) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.out = nn.Linear(frequencies, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, angle: Tensor) -> Tensor:
        """(B,) -> (B,)."""
        return self.out(sinusoids(10.0 * angle, self.frequencies))[:, 0]


class SCM(Mapping):
    """The task.

    Args:
        model: what is trained.
        config: the settings.
        held_out: data to show beside samples.
    """

    def __init__(self, model: Student, config: SCMConfig, held_out: Dataset | None = None) -> None:
        super().__init__(model, config, held_out)
        self.std = model.denoise.data_std or 0.5
        self.times = LogNormalSigma(model.schedule, config.times_mean, config.times_std)
        self.warmup, self.weighting = config.warmup, Weighting()
        self.players = {**self.players, "weighting": Player(self.weighting, along="student", average=False)}

    def begins(self, rng: Draws, progress: Moment) -> Tensor:
        return self.times(rng.even("time"))

    def angle(self, t: Tensor) -> Tensor:
        """φ of times."""
        point = self.schedule.point(t)
        return torch.atan2(point.sigma, self.std * point.alpha)

    def velocity_of(self, x: Tensor, t: Tensor, cond: Cond | None) -> Tensor:
        """F, what the student says of the velocity, over s: (B, …)."""
        point = self.schedule.point(t).align(x)
        angle = torch.atan2(point.sigma, self.std * point.alpha)
        return self.model.denoise(x, point, cond).linear(-angle.sin() / self.std, angle.cos())

    def tangent(self, x: Tensor, t: Tensor, cond: Cond | None, v: Tensor, ratio: float) -> tuple[Tensor, Tensor]:
        """F and ``cos φ·df/dφ`` where the state moves at dz/dτ = ``v`` in the straight coordinates; the second part times ``ratio``."""
        angle = self.angle(t)
        cos, sin = angle.cos(), angle.sin()
        speed = self.std / (cos + self.std * sin).square()  # dτ/dφ
        dx, dt = self.along(x, t, v)
        pace = cos * sin * speed
        F, slope = jvp(lambda x, t: self.velocity_of(x, t, cond), (x, t), (self.wide(x, pace) * dx, pace * dt))
        c, n, rate = (self.wide(x, value) for value in (cos, sin, speed))
        point = self.schedule.point(t).align(x)
        z = x / (point.alpha.square() + (point.sigma / self.std).square()).sqrt()
        still = F.detach()
        # z = (cos φ + s·sin φ)·(straight z), so its velocity is that of the straight z times a factor, and the factor's own
        factor = c + self.std * n
        dz = factor * rate * v + (self.std * c - n) / factor * z
        return F, -(c * c) * (self.std * still - dz) - ratio * (c * n * z + self.std * slope.detach())

    @staticmethod
    def wide(x: Tensor, value: Tensor) -> Tensor:
        """(B,) broadcast over a state."""
        return onto(value, x).view(-1, *(1,) * (x.ndim - 1))

    def loss(self, player: str, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        cond, pair = self.condition(batch, rng), self.pair(batch, rng)
        t = self.begins(rng, progress)
        x = self.noised(*pair, t)
        ratio = min(1.0, progress.fraction / self.warmup) if self.warmup else 1.0
        F, g = self.tangent(x, t, cond, self.velocity(x, t, cond, pair), ratio)
        g = g / (g.flatten(1).norm(dim=1).view(-1, *(1,) * (x.ndim - 1)) + SMALLEST)
        squared = (F - F.detach() - g).float().square().flatten(1).mean(1)
        weight = self.weighting(onto(self.angle(t), x).float())
        return {"scm": weight.exp() * squared - weight}
