"""Trajectories of ODE and SDE solvers on sixteen narrow modes in the plane; draws the gallery of the docs.

python bench/gallery.py
"""

from pathlib import Path

import matplotlib
import torch
from torch import Tensor

import reverie as rv
from mixtures import mixture
from reverie.core.denoiser import Denoiser
from reverie.core.schedules import VP
from reverie.solve.plan import Solver

matplotlib.use("Agg")
import matplotlib.pyplot as plt

STATIC = Path(__file__).parents[1] / "docs" / "_static"
ODE: dict[str, Solver | str] = {
    "Euler": rv.solve.Euler(),
    "Heun (5 steps)": rv.solve.Heun(),
    "DPMpp(2)": rv.solve.DPMpp(2),
    "UniPC(3)": rv.solve.UniPC(3),
    "DEIS(3)": rv.solve.DEIS(3),
    "auto": "auto",
}
SDE: dict[str, Solver | str] = {
    "DDPM": rv.solve.DDPM(),
    "DDIM(eta=0.5)": rv.solve.DDIM(0.5),
    "EulerMaruyama": rv.solve.EulerMaruyama(),
    "SDEDPMpp(2)": rv.solve.SDEDPMpp(2),
    "Churn (20 steps)": rv.solve.Churn(),
    "Langevin(DDIM)": rv.solve.Langevin(rv.solve.DDIM()),
}


def run(denoise: Denoiser, x: Tensor, solver: Solver | str, steps: int) -> Tensor:
    """The nodes of every trajectory, (steps + 1, B, 2)."""
    grid = None if solver == "auto" else rv.grids.logsnr(-8.0, 9.0)
    nodes = [step.x for step in rv.iterate(denoise, x=x, solver=solver, steps=steps, grid=grid, seed=1)]
    return torch.stack([x, *nodes])


def draw(name: str, steps: int, shown: int, exact: Tensor, x: Tensor, denoise: Denoiser) -> None:
    """Some trajectories in colors over the density; rings are the exact ends of the flow, grey dots the ends of all stochastic runs."""
    data, solvers = mixture("ring"), ODE if name == "ode" else SDE
    line = torch.linspace(-1.7, 1.7, 240, dtype=torch.float64)
    where = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1).reshape(-1, 2)
    density = data.log_prob(where).reshape(240, 240).exp().sqrt()
    figure, axes = plt.subplots(2, 3, figsize=(9.0, 6.2), layout="constrained", sharex=True, sharey=True)
    for axis, (label, solver) in zip(axes.flat, solvers.items(), strict=True):
        count = steps // 2 if label.startswith(("Heun", "Churn")) else steps
        path = run(denoise, x, solver, count)
        axis.imshow(
            density, extent=(-1.7, 1.7, -1.7, 1.7), origin="lower", cmap="Greys", vmax=1.6 * float(density.max())
        )
        title = label
        if solvers is SDE:
            axis.scatter(*path[-1].T, s=1.5, color="0.45", zorder=2)
        for i in range(shown):
            axis.plot(*path[:, i].T, linewidth=0.8, alpha=0.8, color=f"C{i % 10}")
            axis.plot(*path[-1, i], marker="o", markersize=4.0 if solvers is SDE else 3.0, color=f"C{i % 10}")
        if solvers is ODE:
            axis.scatter(*exact[:shown].T, s=30, facecolors="none", edgecolors="black", linewidths=0.7, zorder=3)
            title = f"{label}: error {(path[-1] - exact).norm(dim=1).log().mean().exp():.3f}"
        axis.set(title=title, xlim=(-1.7, 1.7), ylim=(-1.7, 1.7), xticks=[], yticks=[], aspect="equal")
    figure.savefig(STATIC / f"trajectories_{name}.png", dpi=110)


def main() -> None:
    denoise = mixture("ring").denoiser(VP())
    x = torch.randn(256, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    exact = rv.sample(denoise, x=x, solver=rv.solve.RK45(1e-6, 1e-6))
    draw("ode", 10, 40, exact, x, denoise)
    draw("sde", 40, 5, exact, x, denoise)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    main()
