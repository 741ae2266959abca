"""Distributions whose flow map is known, as networks and as tables."""

import copy
import math

import torch
from torch import Tensor, nn

from reverie.core.condition import Vector
from reverie.core.denoiser import NetDenoiser
from reverie.core.exact import Gaussian, GaussianMixture
from reverie.core.flow_map import UNTIL
from reverie.core.schedules import Flow, Schedule
from reverie.distill.student import Student, hearing
from reverie.nets.network import Network

MEAN, STD = 0.3, 0.5


def gaussian(dim: int = 2, dtype: torch.dtype = torch.float64) -> GaussianMixture:
    """N(0.3, 0.25) in each dimension: G1."""
    return Gaussian(torch.full((dim,), MEAN, dtype=dtype), STD**2 * torch.eye(dim, dtype=dtype))


class ExactNet(nn.Module):
    """The mean velocity of G1 between any two times of the straight path, times a gain that is 1 where it is right.

    With A(t) = (1 − t)²v + t² and g = √(A(s)/A(t)), the map is ``x_s = (1 − s)m + g·(x_t − (1 − t)m)``, and
    ``u = (x_t − (1 − t)m)·((t + s)(1 + v) − 2v)/(A(t)(1 + g)) − m``. Not told where a leap ends, it ends at 0.
    """

    def __init__(self, told: bool = True) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.conditions = {UNTIL: Vector(1)} if told else {}

    def forward(self, x: Tensor, time: Tensor, cond=None) -> Tensor:
        t = time.expand(len(x))[:, None]
        s = t - cond[UNTIL].value if cond is not None else torch.zeros_like(t)
        v = STD**2
        at_t, at_s = ((1 - w) ** 2 * v + w**2 for w in (t, s))
        slope = ((t + s) * (1 + v) - 2 * v) / (at_t * (1 + (at_s / at_t).sqrt()))
        return self.gain * ((x - (1 - t) * MEAN) * slope - MEAN)


def exact_student(told: bool = True) -> Student:
    denoise = NetDenoiser(ExactNet(told), Flow(), shape=(2,))
    return Student(denoise, lambda: gaussian().denoiser(Flow()))


class Perceptron(Network):
    """A small network of vectors that is told t, and by how much to leap once it listens."""

    def __init__(self, dim: int = 2, width: int = 64) -> None:
        super().__init__()
        self.conditions = {}
        self.layers = nn.Sequential(
            nn.Linear(dim + 14, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, dim),
        )

    def listen(self, *names: str) -> None:
        self.conditions = {**self.conditions, **{name: Vector(1) for name in names}}

    def forward(self, x: Tensor, time: Tensor, cond=None) -> Tensor:
        t = time.expand(len(x))[:, None]
        gap = cond[UNTIL].value if cond is not None and UNTIL in cond else torch.zeros_like(t)
        told = torch.cat([t, gap], 1)
        angle = (told[:, :, None] * told.new_tensor([0.5 * math.pi, math.pi, 2 * math.pi])).flatten(1)
        return self.layers(torch.cat([x, told, angle.sin(), angle.cos()], 1))


def student(
    data: GaussianMixture, told: bool, dim: int = 2, schedule: Schedule | None = None, width: int = 64
) -> Student:
    """A fresh perceptron whose teacher is the exact denoiser of ``data``."""
    torch.manual_seed(0)
    path = schedule or Flow()
    denoise = NetDenoiser(Perceptron(dim, width), path, "straight", shape=(dim,))
    exact = copy.deepcopy(data).to(dtype=torch.float32)
    return Student(hearing(denoise, UNTIL) if told else denoise, lambda: exact.denoiser(path))


def line() -> GaussianMixture:
    """Two Gaussians on a line."""
    return GaussianMixture(
        torch.tensor([0.3, 0.7], dtype=torch.float64),
        torch.tensor([[-0.8], [0.9]], dtype=torch.float64),
        torch.tensor([[[0.04]], [[0.09]]], dtype=torch.float64),
    )


def quantile_map(data: GaussianMixture, x: Tensor, t: float, s: float) -> Tensor:
    """The exact flow map of a mixture on a line: it is monotone, so it keeps quantiles, ``F_s⁻¹(F_t(x))``; (B, 1) -> (B, 1)."""

    def below(x: Tensor, t: float) -> Tensor:
        deviation = ((1 - t) ** 2 * data.covariances[:, 0, 0] + t * t).sqrt()
        return (data.log_weights.exp() * torch.special.ndtr((x - (1 - t) * data.means[:, 0]) / deviation)).sum(
            -1, keepdim=True
        )

    level = below(x, t)
    low, high = torch.full_like(x, -20.0), torch.full_like(x, 20.0)
    for _ in range(100):
        middle = 0.5 * (low + high)
        less = below(middle, s) < level
        low, high = torch.where(less, middle, low), torch.where(less, high, middle)
    return 0.5 * (low + high)


def mixture() -> GaussianMixture:
    """Four narrow Gaussians in the plane, off the axes and unevenly weighted."""
    means = torch.tensor([[1.0, 0.4], [-0.9, 0.9], [0.2, -1.1], [-0.3, 0.1]])
    return GaussianMixture(torch.tensor([0.3, 0.3, 0.2, 0.2]), means, 0.01 * torch.eye(2).repeat(4, 1, 1))


def sliced_w2(a: Tensor, b: Tensor, count: int = 64) -> float:
    """The Wasserstein distance of two equal numbers of points in the plane, root mean square over directions."""
    angle = torch.linspace(0, math.pi, count + 1)[:-1]
    ways = torch.stack([angle.cos(), angle.sin()])
    return float(((a @ ways).sort(0).values - (b @ ways).sort(0).values).square().mean().sqrt())
