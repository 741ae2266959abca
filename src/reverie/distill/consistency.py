"""Consistency models: from any point of the flow to its end (Song et al. 2023, "Consistency models").

``f(x_t, t)`` is the estimate of x0, with f(x, 0) = x. It is held to one value along the flow: at two neighbouring noise levels ρ = σ/α
(Karras et al.'s σ), ``d(f(x_t, t), sg f(x_s, s))`` is small, where x_s is

* cd: x_t carried on by one step of Heun's method with the teacher (consistency distillation, their algorithm 2);
* ct: the same x0 and noise at s, on a grid that grows with the training (algorithm 3 and appendix C);
* ict: the same with no moving average, pseudo-Huber errors, weights 1/(ρ_t − ρ_s), and ρ as a lognormal picks it among the points of a
  grid that doubles (Song & Dhariwal 2024, "Improved techniques for training consistency models", table 1);
* ect: ρ_s/ρ_t = 1 − n(ρ_t)/2ᵃ with n = 1 + 8·sigmoid(−ρ_t), a from 1 up: begun as diffusion, at ρ_s near 0, the pairs close in on each
  other (Geng et al. 2024, "Consistency models made easy", section 3).

Karras et al.'s grid ends at ρ = 80, short of pure noise; here τ = ρ/(1 + ρ) is stretched by 81/80, so that the last point is where
sampling begins.
"""

import math

import torch
from torch import Tensor

from reverie.core.batch import Batch, Dataset
from reverie.core.draws import Draws
from reverie.core.flow_map import NetFlowMap
from reverie.core.task import Moment
from reverie.distill.flow_config import ConsistencyConfig
from reverie.distill.mapping import Mapping, Slowly
from reverie.distill.student import Student

SMALLEST, LARGEST, RHO = 0.002, 80.0, 7.0
"""Ends and exponent of Karras et al.'s grid."""
HUBER = 0.00054
"""c of the pseudo-Huber error, a root of the dimension."""
STAGES = 8
"""Times that the pairs of ect halve their distance."""


def karras(u: Tensor) -> Tensor:
    """ρ of u in [0, 1] (B,), rising."""
    low, high = SMALLEST ** (1.0 / RHO), LARGEST ** (1.0 / RHO)
    return (low + u * (high - low)) ** RHO


def scales(fraction: float, first: int, last: int) -> int:
    """Points of the grid of ct after a fraction of the training: ``N = ⌈√(f·((s₁ + 1)² − s₀²) + s₀²) − 1⌉ + 1``."""
    return math.ceil(math.sqrt(fraction * ((last + 1) ** 2 - first**2) + first**2) - 1.0) + 1


def doubling(fraction: float, first: int, last: int) -> int:
    """Points of the grid of ict: ``min(s₀·2^⌊k/K'⌋, s₁) + 1`` with ``K' = ⌊K/(⌊log₂(s₁/s₀)⌋ + 1)⌋``."""
    stages = math.floor(math.log2(last / first)) + 1
    return min(first * 2 ** min(math.floor(fraction * stages), stages - 1), last) + 1


class Consistent(Mapping):
    """What the variants share.

    Args:
        model: what is trained.
        config: the settings.
        held_out: data to show beside samples.
    """

    def __init__(self, model: Student, config: ConsistencyConfig, held_out: Dataset | None = None) -> None:
        super().__init__(model, config, held_out)
        self.scales = config.resolved().scales or 0

    @property
    def target(self) -> NetFlowMap:
        """What says where the nearer point goes."""
        return self.model

    def levels(self, rng: Draws, progress: Moment) -> tuple[Tensor, Tensor]:
        """ρ of the two points, each (B,), the noisier first."""
        raise NotImplementedError

    def apart(self, error: Tensor, further: Tensor, nearer: Tensor) -> Tensor:
        """The distance (B,) of an error (B, …) between points of ρ (B,)."""
        return error.square().flatten(1).mean(1)

    def time(self, rho: Tensor) -> Tensor:
        """t of ρ (B,)."""
        return self.at((rho / (1.0 + rho) * (1.0 + 1.0 / LARGEST)).clamp(max=1.0))

    def begins(self, rng: Draws, progress: Moment) -> Tensor:
        return self.time(self.levels(rng, progress)[0])

    def loss(self, player: str, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        cond, pair = self.condition(batch, rng), self.pair(batch, rng)
        further, nearer = self.levels(rng, progress)
        t, s = self.time(further), self.time(nearer)
        x = self.noised(*pair, t)
        with torch.no_grad():
            at_s = self.solved(x, t, s, cond) if self.taught else self.noised(*pair, s)
            target = self.target.denoise(at_s, s, cond).x0
        error = self.model.denoise(x, t, cond).x0 - target
        return {"consistency": self.apart(error.float(), further.to(x), nearer.to(x))}


class CD(Consistent, Slowly):
    """Consistency distillation."""

    @property
    def target(self) -> NetFlowMap:
        return self.slow

    def decay(self, progress: Moment) -> float:
        return 0.95

    def points(self, progress: Moment) -> int:
        """Of the grid."""
        return self.scales

    def levels(self, rng: Draws, progress: Moment) -> tuple[Tensor, Tensor]:
        n = self.points(progress)
        first = (rng.even("time") * (n - 1)).floor()
        return karras((first + 1.0) / (n - 1)), karras(first / (n - 1))


class CT(CD):
    """Consistency training: ``μ = exp(s₀·log 0.95/(N − 1))`` keeps the average as far behind as the grid is fine."""

    def decay(self, progress: Moment) -> float:
        return math.exp(2.0 * math.log(0.95) / max(1, self.points(progress) - 1))

    def points(self, progress: Moment) -> int:
        return scales(progress.fraction, 2, self.scales)


class ICT(Consistent):
    """Improved consistency training."""

    def levels(self, rng: Draws, progress: Moment) -> tuple[Tensor, Tensor]:
        n = doubling(progress.fraction, min(10, self.scales), self.scales)
        grid = karras(torch.linspace(0.0, 1.0, n, dtype=torch.float64, device="cpu"))
        share = torch.special.ndtr((grid.log() + 1.1) / 2.0)
        share = (share - share[0]) / (share[-1] - share[0])
        first = (torch.searchsorted(share, rng.even("time"), right=True) - 1).clamp(0, n - 2)
        return grid[first + 1], grid[first]

    def apart(self, error: Tensor, further: Tensor, nearer: Tensor) -> Tensor:
        c = HUBER * math.sqrt(error[0].numel())
        return ((error.square().flatten(1).sum(1) + c * c).sqrt() - c) / (further - nearer)


class ECT(Consistent):
    """Easy consistency tuning. Its error is the norm, weighted as that of ict."""

    def levels(self, rng: Draws, progress: Moment) -> tuple[Tensor, Tensor]:
        rho = (-1.1 + 2.0 * torch.special.ndtri(rng.even("time"))).exp().clamp(min=SMALLEST)
        stage = 1 + min(math.floor(progress.fraction * STAGES), STAGES - 1)
        return rho, (rho * (1.0 - (1.0 + 8.0 * torch.sigmoid(-rho)) / 2.0**stage)).clamp(min=0.1 * SMALLEST)

    def apart(self, error: Tensor, further: Tensor, nearer: Tensor) -> Tensor:
        return (error.square().flatten(1).sum(1) + 1e-12).sqrt() / (further - nearer)


TASKS: dict[str, type[Consistent]] = {"cd": CD, "ct": CT, "ict": ICT, "ect": ECT}
