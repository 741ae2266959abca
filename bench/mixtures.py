"""The problems of the solver bench: Gaussian mixtures fitted to real data, their exact denoisers and tight references."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.integrate import DOP853
from sklearn.datasets import load_digits, load_sample_images
from sklearn.mixture import GaussianMixture as Fit
from torch import Tensor

from reverie.core.denoiser import Denoiser
from reverie.core.estimate import Estimate
from reverie.core.exact import GaussianMixture
from reverie.core.schedules import VE, VP, Flow, Schedule
from reverie.core.space import Identity

ENDS = {"vp": (-5.0588, 4.6052), "ve": (-4.3820, 4.6052), "flow": (-6.9068, 4.6052)}
"""λ at the start and the end: σ/α from 157 (the usual discrete VP table), 80 and 999 (flow at t = 0.999) to 0.01."""

DATA = ("digits", "patches", "ring")


def path(name: str) -> Schedule:
    """The path, with the start of :data:`ENDS` at t = 1 (flow: at t = 0.999)."""
    low, high = ENDS[name]
    if name == "vp":
        return VP(0.1, float(2.0 * np.log1p(np.exp(-2.0 * low))) - 0.1)
    return VE(float(np.exp(-high)), float(np.exp(-low))) if name == "ve" else Flow()


@lru_cache
def mixture(name: str) -> GaussianMixture:
    """Ten components on the digits (64-d) or on 8x8 patches of two photographs (64-d); sixteen narrow ones on two rings (2-d).

    "classes" is one component for each class of the digits.
    """
    if name == "ring":
        angle = torch.arange(16, dtype=torch.float64) * (2.0 * torch.pi / 16)
        radius = torch.where(torch.arange(16) % 2 == 0, 1.0, 0.55).double()
        means = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)
        return GaussianMixture(torch.ones(16).double(), means, 0.03**2 * torch.eye(2).double().expand(16, 2, 2))
    if name == "classes":
        rows, labels = data("digits"), load_digits().target
        parts = [rows[labels == c] for c in range(10)]
        covariances = [np.cov(part.T) + 1e-3 * np.eye(64) for part in parts]
        sizes, means = [float(len(part)) for part in parts], [part.mean(axis=0) for part in parts]
        return GaussianMixture(*(torch.from_numpy(np.array(v)) for v in (sizes, means, covariances)))
    fit = Fit(10, reg_covar=1e-3, random_state=0, max_iter=30).fit(data(name))
    return GaussianMixture(*(torch.from_numpy(v) for v in (fit.weights_, fit.means_, fit.covariances_)))


def data(name: str) -> np.ndarray:
    """Rows of 64 values in [−1, 1]."""
    if name == "digits":
        return load_digits().data / 8.0 - 1.0
    rng = np.random.default_rng(0)
    patches = []
    for image in load_sample_images().images:
        grey = image.mean(axis=2) / 127.5 - 1.0
        for _ in range(4000):
            i, j = rng.integers(grey.shape[0] - 8), rng.integers(grey.shape[1] - 8)
            patches.append(grey[i : i + 8, j : j + 8].ravel())
    return np.array(patches)


class Exact(Denoiser):
    """The exact denoiser of a mixture on a path, in two matrix products; with ``labels`` and ``scale`` its guided form.

    Component k is class k then, and guidance is ``null + scale·(cond − null)``.
    """

    def __init__(
        self, data: GaussianMixture, schedule: Schedule, labels: Tensor | None = None, scale: float = 1.0
    ) -> None:
        self.data, self.schedule, self.shape, self.space, self.conditions = data, schedule, data.shape, Identity(), {}
        self.labels, self.scale = labels, scale
        k, d = data.means.shape
        self.vectors = data.vectors.permute(1, 0, 2).reshape(d, k * d).contiguous()
        self.back = self.vectors.T.contiguous()
        self.centres = torch.einsum("kij,ki->kj", data.vectors, data.means).reshape(1, k * d)

    @property
    def guidance(self) -> float:
        return self.scale

    def x0(self, z: Tensor, rho: float) -> Tensor:
        """E[x0 | x0 + ρε = z]."""
        k, d = self.data.means.shape
        residual = (z @ self.vectors - self.centres).view(len(z), k, d)
        inverse = 1.0 / (self.data.values + rho * rho)
        square = torch.einsum("bkd,kd->bk", residual * residual, inverse)
        share = torch.softmax(self.data.log_weights - 0.5 * (square - inverse.log().sum(-1)), 1)
        if self.labels is not None:
            share = (1.0 - self.scale) * share
            share[torch.arange(len(z)), self.labels] += self.scale
        each = self.data.values * inverse * residual * share[..., None]
        return each.view(len(z), -1) @ self.back + share @ self.data.means

    def __call__(self, x: Tensor, t: Any, cond: Any = None) -> Estimate:
        point = self.point(t, x)
        return Estimate(x, self.x0(x.double() / point.alpha, point.sigma / point.alpha), (1.0, 0.0), point)


def reference(denoise: Exact, x: Tensor, low: float, high: float) -> Tensor:
    """x at λ = ``high`` on the probability flow from x at λ = ``low``: DOP853 (scipy) on dz/dτ = ε − x0 with z = x/(α+σ), in −λ."""

    def slope(s: float, flat: np.ndarray) -> np.ndarray:
        rho = float(np.exp(s))
        z = torch.from_numpy(flat).view(x.shape) * (1.0 + rho)
        x0 = denoise.x0(z, rho)
        return (rho / (1.0 + rho) ** 2 * ((z - x0) / rho - x0)).numpy().ravel()

    a, b = denoise.schedule.at(low), denoise.schedule.at(high)
    run = DOP853(slope, -low, (x / (a.alpha + a.sigma)).numpy().ravel(), -high, rtol=1e-8, atol=1e-9)
    while run.status == "running":
        run.step()
    return torch.from_numpy(run.y).view(x.shape) * (b.alpha + b.sigma)


def problem(data: str, on: str, n: int, seed: int, folder: Path | None = None) -> tuple[Exact, Tensor, Tensor]:
    """The denoiser, noise at the start and where the probability flow takes it; the latter is kept in ``folder``."""
    denoise, (low, high) = Exact(mixture(data), path(on)), ENDS[on]
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, *denoise.shape, dtype=torch.float64, generator=generator) * denoise.schedule.at(low).sigma
    file = None if folder is None else folder / f"{data}-{on}-{n}-{seed}.npy"
    if file is not None and file.is_file():
        return denoise, x, torch.from_numpy(np.load(file))
    exact = reference(denoise, x, low, high)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, exact.numpy())
    return denoise, x, exact
