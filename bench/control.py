"""The figure of docs/guides/restoration.md: what is exact, on closed-form models. ``python bench/control.py``."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

import reverie as rv
from reverie.core.exact import Gaussian, GaussianMixture
from reverie.core.schedules import VP, Flow
from reverie.guide import FreeDoM, time_travel
from reverie.inverse import operators
from reverie.solve import DDPM, Heun, grids, sample

FIGURES = Path(__file__).parents[1] / "docs" / "_static"
GREY, BLUE, RED = "#b8bec7", "#2563a8", "#c2482e"


class Draws:
    """Noise for many samples at once."""

    def __init__(self, seeds: Sequence) -> None:
        self.n, self.random = len(seeds), torch.Generator().manual_seed(7)

    def draw(self, stream: str, number: int, shape: Sequence[int], span=None) -> Tensor:
        return torch.randn(self.n, *shape, dtype=torch.float64, generator=self.random)


def ring() -> GaussianMixture:
    angle = 2.0 * torch.pi * torch.arange(12, dtype=torch.float64) / 12
    means = 2.0 * torch.stack([angle.cos(), angle.sin()], 1)
    return GaussianMixture(torch.ones(12).double(), means, 0.15**2 * torch.eye(2).double().expand(12, 2, 2))


def ellipse(axis, mean: Tensor, covariance: Tensor, color: str, label: str) -> None:
    """Two standard deviations."""
    angle = np.linspace(0, 2 * np.pi, 100)
    edge = mean[:, None].numpy() + 2.0 * np.linalg.cholesky(covariance.numpy()) @ np.stack(
        [np.cos(angle), np.sin(angle)]
    )
    axis.plot(*edge, color=color, lw=1.5, label=label)


def exact() -> None:
    """FreeDoM's ring; ΠGDM and DPS against a posterior; D-Flow and Matheron's rule; what score distillation seeks."""
    fig, axes = plt.subplots(1, 4, figsize=(14, 3.6))
    data, points = ring(), grids.time()(VP(), 60)
    normal = torch.tensor([0.6, 0.8]).double()

    def energy(x: Tensor) -> Tensor:
        return (x @ normal - 1.0).abs()

    prior = data.sample(600, torch.Generator().manual_seed(0))
    axes[0].scatter(*prior.T, s=3, color=GREY, label="data")
    for repeat, color in ((1, BLUE), (6, RED)):
        x = sample(
            data.denoiser(VP()), 80, solver=FreeDoM(DDPM(), energy, 0.1), walk=time_travel(points, repeat), tape=Draws
        )
        axes[0].scatter(*x.T, s=7, color=color, label=f"FreeDoM, each move {repeat}×", alpha=0.8)
    along = torch.tensor([[-2.6], [2.6]]).double() * torch.tensor([0.8, -0.6]).double() + normal
    axes[0].plot(*along.T, color="k", lw=0.8)
    axes[0].set_title("FreeDoM: energy is the distance to the line")

    unit = Gaussian(torch.zeros(1, 1, 2).double(), torch.eye(2).double()).denoiser(VP())
    y, noise = torch.tensor([[[[1.0, 0.0]]]]).double(), 0.5
    known = operators.Inpaint(torch.tensor([[1, 0]]))
    truth = (
        torch.tensor([1.0 / (1 + noise**2), 0.0]).double(),
        torch.diag(torch.tensor([noise**2 / (1 + noise**2), 1.0])).double(),
    )
    for name, color, x in (
        (
            "ΠGDM",
            BLUE,
            sample(rv.inverse.pigdm(unit, known, y, noise), 1500, solver=Heun("straight"), steps=30, tape=Draws),
        ),
        ("DPS, ζ = 1", RED, sample(unit, 1500, solver=rv.inverse.dps(known, y, 1.0), steps=100, tape=Draws)),
        ("DPS, ζ = 0.1", "#d99a2b", sample(unit, 1500, solver=rv.inverse.dps(known, y, 0.1), steps=100, tape=Draws)),
    ):
        flat = x.flatten(1)
        ellipse(axes[1], flat.mean(0), torch.cov(flat.T), color, name)
    ellipse(axes[1], *truth, "k", "posterior")
    axes[1].lines[-1].set(linestyle=":", linewidth=2.5)
    axes[1].set_title("N(0, 1) with x₁ measured, two deviations")

    covariance = torch.tensor([[1.0, 0.8], [0.8, 1.0]]).double()
    correlated = Gaussian(torch.zeros(2).double(), covariance).denoiser(Flow())
    source = torch.randn(10, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    run = {"solver": Heun("straight"), "steps": 8, "grid": grids.time()}
    start = sample(correlated, x=source, **run)
    found = rv.inverse.dflow(
        correlated, lambda x: (x[:, 0] - 1.5).square(), 10, iterations=8, source=source, **run
    ).images
    axes[2].scatter(*start.T, s=6, color=GREY, label="drawn from the seed")
    for a, b in zip(start, found, strict=True):
        axes[2].plot(*torch.stack([a, b]).T, color=GREY, lw=0.4)
    axes[2].scatter(*found.T, s=8, color=BLUE, label="D-Flow for x₁ = 1.5")
    right = start + (1.5 - start[:, :1]) * covariance[:, 0] / covariance[0, 0]
    axes[2].scatter(*right.T, s=34, facecolors="none", edgecolors="k", lw=0.5, label="Matheron's rule")
    axes[2].set_title("D-Flow ends at samples of the posterior")

    wide = torch.linspace(-3, 3, 60).double()
    x = torch.stack([wide, 2.4 * torch.sin(7.0 * wide)], 1).requires_grad_()
    adam = torch.optim.Adam([x], 0.05)
    for step in range(250):
        (x.grad,) = torch.autograd.grad(rv.guide.sds(data.denoiser(VP()), x, step=step).sum(), x)
        adam.step()
    axes[3].scatter(*prior.T, s=3, color=GREY, label="data")
    axes[3].scatter(*x.detach().T, s=8, color=RED, label="after 250 steps of SDS")
    axes[3].set_title("Score distillation contracts")
    for axis in axes:
        axis.set_aspect("equal", adjustable="datalim")
        axis.legend(fontsize=7, loc="lower left", frameon=False)
        axis.tick_params(labelsize=7)
        axis.title.set_fontsize(9)
    fig.tight_layout()
    fig.savefig(FIGURES / "control_exact.png", dpi=120)


if __name__ == "__main__":
    torch.set_num_threads(1)
    exact()
