"""GENIE's head: a small network that knows how ε changes along the flow, so that second-order steps cost one evaluation.

Dockhorn, Vahdat & Kreis 2022, "GENIE: higher-order denoising diffusion solvers" (section 3 and appendix). With ρ = σ/α (their γ) the
derivative dε/dρ along the flow is a Jacobian-vector product of the denoiser; a head k is distilled to give it,

    min E ρ²·‖k − dε/dρ‖²,   k = −k₁/ρ + ρ/(1 + ρ²)·k₂ + 1/(ρ(1 + ρ²))·k₃,

whose three parts are what a single Gaussian's derivative is made of (their mixed parametrisation). Their head sits on the features inside
of the network and sees the state, ε and the time besides; this one sees the latter three. It begins as k = 0, with which GENIE is DDIM.
"""

from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.core.batch import Batch, DataSpec
from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser, Wrapper
from reverie.core.draws import Draws
from reverie.core.estimate import Estimate
from reverie.core.schedules import Point
from reverie.core.task import Moment, Player, Task
from reverie.core.tensors import Scalar, align, combine, onto
from reverie.core.times import LogSNR
from reverie.diffusion.teacher import GenieConfig
from reverie.nets.embeddings import TimeEmbedding
from reverie.solve.genie import GENIE, derivative, rho_rate


class GenieHead(nn.Module):
    """Convolutions of the state and its ε, scaled by the time: an estimate of (B, C, H, W) -> dε/dρ, of the same shape.

    Args:
        channels: C.
        width: features.
        depth: layers inside.
    """

    def __init__(self, channels: int, width: int = 64, depth: int = 3) -> None:
        super().__init__()
        self.time = TimeEmbedding(64, width, scale=100.0)
        self.scales = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(depth))
        self.embed = nn.Conv2d(2 * channels, width, 3, padding=1)
        self.layers = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(depth))
        self.out = nn.Conv2d(width, 3 * channels, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, estimate: Estimate) -> Tensor:
        return self.scaled(estimate) / rho(estimate)

    def scaled(self, estimate: Estimate) -> Tensor:
        """``ρ·k``, which is finite at both ends of a path."""
        point, x = estimate.point, estimate.x_t
        share = point.alpha**2 / (point.alpha**2 + point.sigma**2)  # 1/(1 + ρ²)
        unit = x * (point.alpha**2 + point.sigma**2) ** -0.5
        tau = point.sigma / (point.alpha + point.sigma)
        tau = tau.flatten().expand(len(x)) if isinstance(tau, Tensor) else x.new_full((len(x),), tau)
        time = F.silu(self.time(tau))
        h = self.embed(torch.cat([unit, estimate.eps], 1))
        for layer, scale in zip(self.layers, self.scales, strict=True):
            a, b = scale(time)[:, :, None, None].chunk(2, 1)
            h = h + layer(F.silu(h * (1.0 + a) + b))
        k1, k2, k3 = self.out(F.silu(h)).chunk(3, 1)
        return (1.0 - share) * k2 + share * k3 - k1


def rho(estimate: Estimate) -> Scalar:
    """σ/α."""
    return estimate.point.sigma / estimate.point.alpha


class WithHead(Wrapper):
    """A denoiser and its head. ``sample(denoise, solver=denoise.solver)`` takes the head's steps; whoever does not ask has the denoiser."""

    def __init__(self, base: Denoiser, head: GenieHead) -> None:
        super().__init__(base)
        self.head = head

    def __call__(self, x: Tensor, t: Point | Scalar, cond: Cond | None = None, call: Any = None) -> Estimate:
        return self.base(x, t, cond, call)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        self.head.to(device=device, dtype=dtype)
        return super().to(device, dtype)

    @property
    def solver(self) -> GENIE:
        return GENIE("eps", self.head)


class Genie(Task):
    """The distillation, at times even in logsnr. The denoiser stays as it is, and checkpoints hold the head alone.

    Args:
        denoise: with its head.
        held_out: images to validate on, each at a fixed time and noise.
    """

    def __init__(self, denoise: WithHead, *, held_out: Batch | None = None) -> None:
        self.denoise, self.times, self.held_out = denoise, LogSNR(denoise.schedule), held_out
        parts = {"head": denoise.head}
        if (net := getattr(denoise.base, "net", None)) is not None:
            parts["net"] = net.requires_grad_(False)
        self.players = {"head": Player(nn.ModuleDict(parts), train=False, saved="trained")}

    def loss(self, player: str, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        k, target = self.both(batch, self.times(rng.even("time")), rng)
        return {"mse": (k - target).float().square().flatten(1).mean(1)}

    def both(self, batch: Batch, t: Tensor, rng: Draws) -> tuple[Tensor, Tensor]:
        """ρ·k and ρ·dε/dρ of each image at its time, (B, …)."""
        denoise = self.denoise
        x0 = denoise.space.to(batch.x.device).encode(batch.x)
        noise = onto(rng.normal("noise", x0.shape[1:]), x0)
        with torch.no_grad():
            point = denoise.schedule.point(t).align(x0)
            x = combine((point.alpha, point.sigma), (x0, noise))
            estimate = denoise(x, point, batch.cond)
            slope = derivative(
                lambda x, t: denoise(x, t, batch.cond), denoise.schedule, x, onto(t, x), estimate.velocity, (0.0, 1.0)
            )
            target = align(rho(estimate) / rho_rate(point), x) * slope
        return denoise.head.scaled(estimate), target

    def describe(self, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        return {"logsnr": 2.0 * self.denoise.schedule.lam(self.times(rng.even("time")))}

    def validate(self) -> dict[str, float | list[float]]:
        """On held-out images ``loss``, and ``relative``, the root of its share in the square of ρ·dε/dρ: 1 for a head that says 0."""
        if self.held_out is None:
            return {}
        n = len(self.held_out)
        u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
        k, target = self.both(self.held_out.to(self.denoise.device), self.times(u), Draws(0, 0, n))
        loss = (k - target).float().square().mean()
        return {"loss": float(loss), "relative": float((loss / target.float().square().mean()).sqrt())}


def build(config: GenieConfig, spec: DataSpec, seed: int, folder: Path | None) -> WithHead:
    """The teacher's model with a head freshly initialised by the seed."""
    teacher = config.teaching(spec, seed, folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return WithHead(teacher, GenieHead(teacher.shape[0], config.width, config.depth))
