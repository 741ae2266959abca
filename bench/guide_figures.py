"""The figures of docs/guides that closed forms suffice for: seconds on one core.

python bench/guide_figures.py
"""

import math
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

import reverie as rv
from reverie import guide
from reverie.core.condition import Cond
from reverie.core.exact import Gaussian, GaussianMixture
from reverie.core.schedules import Cosine
from reverie.solve import Heun

STATIC = Path(__file__).parent.parent / "docs" / "_static"
EYE = torch.eye(2, dtype=torch.float64)


def petals(width: float, labels: list[int] | None) -> GaussianMixture:
    """Two classes that interlock: three components each around a circle."""
    angle = torch.arange(6, dtype=torch.float64) * (math.pi / 3)
    means = 1.6 * torch.stack([angle.cos(), angle.sin()], 1)
    spread = torch.stack([width * (0.15 * EYE + 0.5 * torch.outer(m, m) / 2.56) ** 1 for m in means])
    return GaussianMixture(torch.ones(6, dtype=torch.float64), means, 0.35 * spread, labels=labels)


def plane() -> None:
    labels = [0, 1, 0, 1, 0, 1]
    data, weak = petals(1.0, labels), petals(2.5, labels)
    model, free = data.denoiser(Cosine()), petals(1.0, None).denoiser(Cosine())
    fitted = petals(1.6, labels).denoiser(Cosine())
    panels = {
        "the model, no label": model,
        "label 0, scale 1": guide.cfg(model, 1.0),
        "classifier-free, scale 4": guide.cfg(model, 4.0),
        "the same, logsnr in (−2, 3)": guide.cfg(model, 4.0, (-2.0, 3.0)),
        "exact classifier, scale 1": guide.classifier(free, data.classifier(Cosine())),
        "exact classifier, scale 4": guide.classifier(free, data.classifier(Cosine()), 4.0),
        "a model that blurs": fitted,
        "autoguided by a worse one, 2": guide.auto(fitted, weak.denoiser(Cosine()), 2.0),
    }
    line = torch.linspace(-4.0, 4.0, 80, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    figure, axes = plt.subplots(2, 4, figsize=(13, 6.8), constrained_layout=True)
    for axis, (name, denoise) in zip(axes.flat, panels.items(), strict=True):
        cond = None if name == "the model, no label" else Cond(label=0)
        x = rv.sample(denoise, 400, cond, solver=Heun(), steps=20, seed=0)
        density = data.log_prob(grid, cond).exp().reshape(80, 80).T
        axis.contour(line, line, density, levels=5, colors="0.75", linewidths=0.8)
        axis.scatter(x[:, 0], x[:, 1], s=5, color="C3" if cond else "C0", alpha=0.7, linewidths=0)
        axis.set(xlim=(-4, 4), ylim=(-4, 4), xticks=[], yticks=[], aspect="equal")
        axis.set_title(name, fontsize=10)
    figure.savefig(STATIC / "guides_plane.png", dpi=100)


def not_the_tilted_density() -> None:
    """Conditional N(1.5, 0.5²), unconditional N(0, 1): where guided sampling ends, and what p·p(c|x)^s would be."""
    import sys

    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from guide.closed_form import Switch, line, normal  # the test bed of the tests

    bed = Switch(normal(1.5, 0.5), normal(0.0, 1.0))
    scales = torch.linspace(1.0, 4.0, 40)
    measured = {s: line(guide.cfg(bed, s), 64)[1] for s in (1.0, 1.5, 2.0, 3.0, 4.0)}
    figure, axis = plt.subplots(figsize=(5.6, 3.6), constrained_layout=True)
    axis.plot(scales, 0.5**scales, color="C0", label=r"the guided ODE, $A^s B^{1-s}$")
    axis.plot(list(measured), list(measured.values()), "o", color="C0", label="measured, 64 steps")
    axis.plot(
        scales, (scales / 0.25 + 1 - scales) ** -0.5, "--", color="C1", label=r"the density $\propto p(x)\,p(c|x)^s$"
    )
    axis.set(xlabel="scale", ylabel="standard deviation", ylim=(0, 0.55))
    axis.legend(frameon=False)
    figure.savefig(STATIC / "guides_tilted.png", dpi=110)


def panorama() -> None:
    """A Gaussian field of 12x12 pixels on a canvas of 12x60."""
    n, size = 12, (12, 60)
    place = torch.cartesian_prod(*(torch.arange(n, dtype=torch.float64),) * 2)
    covariance = 0.5 * torch.exp(-(torch.cdist(place, place) ** 2) / 30.0) + 1e-4 * torch.eye(
        n * n, dtype=torch.float64
    )
    small = Gaussian(torch.zeros(1, n, n, dtype=torch.float64), covariance).denoiser(Cosine())
    figure, axes = plt.subplots(3, 1, figsize=(8, 5.4), constrained_layout=True)
    for axis, stride in zip(axes, (12, 6, 2), strict=True):
        x = rv.sample(guide.windows(small, size, stride), solver=Heun(), steps=16, seed=3)[0, 0]
        axis.imshow(x, cmap="magma", vmin=-1.6, vmax=1.6)
        axis.set_title(f"windows of {n}x{n}, stride {stride}", fontsize=10)
        axis.set(xticks=[], yticks=[])
    figure.savefig(STATIC / "guides_windows.png", dpi=100)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for make in (plane, not_the_tilted_density, panorama):
        make()
