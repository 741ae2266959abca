"""Stochastic solvers by Fréchet distance: ours with and without a shift by size, SDE-DPM-Solver++ of diffusers, and EDM's churn.

The distance is between so many samples of a network and the pictures that it was trained on, in the pictures' first principal components.
Everybody starts from the same noises at the same λ, and ends at the same.
"""

import math
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

import reverie as rv
from outside import Case
from peers import drive
from reverie.measure.frechet import frechet_distance
from reverie.solve.auto import suited
from reverie.solve.probe import probed
from solvers import Trained, ended, peer_grids
from zoo import data_of, denoiser

NETWORKS = ("edm-digits8-few", "ddpm-clothes-few", "score-emoji16", "dit-emoji32")
"""Of the fitting half."""
STEPS = (10, 20, 50)
COMPONENTS = 32


def components(data: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of the data, and as columns the axes along which it varies most."""
    flat = data.flatten(1).double()
    return flat.mean(0), torch.linalg.eigh(torch.cov(flat.T))[1][:, -COMPONENTS:]


def diffusers_sde(bound: Trained, x: Tensor, ends: tuple[float, float], steps: int, grid: str, seed: int) -> Tensor:
    """SDE-DPM-Solver++ 2M of diffusers, which draws from the generator of the process."""
    import diffusers

    make = partial(
        diffusers.DPMSolverMultistepScheduler,
        prediction_type="sample",
        algorithm_type="sde-dpmsolver++",
        final_sigmas_type="sigma_min",
    )
    torch.manual_seed(seed)
    rhos = peer_grids(bound.schedule, ends, steps)[grid]
    low, high = (bound.schedule.at(lam) for lam in ends)
    return drive(make, "vp", "sample", bound.x0, x / low.alpha, rhos) * high.alpha


def ways(size: int) -> dict[str, tuple[Any, Any]]:
    """Solvers and grids of ours, by name; ``earlier`` is the shift by size in λ that the deterministic default has."""
    earlier = 0.5 * math.log(max(1.0, size / 512))
    return {
        "stochastic": (rv.solve.SDEDPMpp(), rv.grids.karras()),
        "stochastic, logistic": (rv.solve.SDEDPMpp(), rv.grids.logistic()),
        **({"stochastic, shifted": (rv.solve.SDEDPMpp(), rv.grids.logistic(1.1 - earlier))} if earlier else {}),
        "stochastic, wide": (rv.solve.SDEDPMpp(), rv.grids.logistic(0.0, 2.5, 2.5)),
        "stochastic, logsnr": (rv.solve.SDEDPMpp(), rv.grids.logsnr()),
        "churn": (rv.solve.Churn(), rv.grids.karras()),
    }


def rows(name: str, noises: int = 128, seed: int = 9) -> list[dict[str, Any]]:
    """A row for each way and number of evaluations; churn takes half as many steps, as Heun's have two evaluations."""
    case = Case(name, denoiser(name), 1.0)
    data, bound, ends = data_of(name)[0], case.bound(noises), case.ends
    mean, axes = components(data)
    real = (data.flatten(1).double() - mean) @ axes
    size = math.prod(case.denoise.shape)
    x = torch.randn(noises, *case.denoise.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x * bound.schedule.at(ends[0]).sigma
    found = []

    def note(way: str, evaluations: int, out: Tensor) -> None:
        distance = frechet_distance((out.flatten(1).double() - mean) @ axes, real)
        found.append({"network": name, "evaluations": evaluations, "way": way, "frechet": distance})
        print(found[-1], flush=True)

    sample = partial(rv.sample, case.denoise, cond=bound.cond, x=x, seed=seed)
    limits = (2.0 * ends[0], 2.0 * ends[1])
    for n in STEPS:
        solver, grid = suited(probed(case.denoise), n, 1.0, size)
        note("auto", n, sample(solver=solver, grid=grid, steps=n, ends=limits))
        for way, (solver, grid) in ways(size).items():
            steps = n // 2 if way == "churn" else n
            note(way, n, sample(solver=solver, grid=ended(ends, grid), steps=steps))
        for grid in ("logsnr", "karras"):
            note(f"diffusers, {grid}", n, diffusers_sde(bound, x, ends, n, grid, seed))
    return found


def table(found: list[dict[str, Any]]) -> str:
    """A line a network and way, a column a number of evaluations."""
    lines = []
    for name, way in product(*(dict.fromkeys(r[key] for r in found) for key in ("network", "way"))):
        here = {r["evaluations"]: r["frechet"] for r in found if (r["network"], r["way"]) == (name, way)}
        if here:
            lines.append(f"| {name} | {way} | " + " | ".join(f"{here.get(n, np.nan):.3g}" for n in STEPS) + " |")
    return "\n".join(lines)
