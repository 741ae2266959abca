"""Closed-form models that guides are judged on."""

import math

import torch

from reverie.core.condition import Cond, Label
from reverie.core.denoiser import Denoiser
from reverie.core.exact import Gaussian, GaussianMixture
from reverie.core.schedules import VE, Schedule
from reverie.core.space import Identity
from reverie.solve import Heun, Solver, grids, sample


class Switch(Denoiser):
    """One exact denoiser where the label is present, another where it is not: two densities that need not belong together."""

    def __init__(self, conditional: Denoiser, unconditional: Denoiser) -> None:
        self.conditional, self.unconditional = conditional, unconditional
        self.schedule, self.shape, self.space = conditional.schedule, conditional.shape, Identity()
        self.conditions = {"label": Label(1)}

    def __call__(self, x, t, cond=None, call=None):
        given = self.conditional(x, t, None, call)
        if cond is None:
            return self.unconditional(x, t, None, call)
        present = cond["label"].present.reshape(-1, *(1,) * (x.ndim - 1))
        return given.replace(torch.where(present, given.out, self.unconditional(x, t, None, call).out))


def normal(mean: float, std: float, schedule: Schedule | None = None, shape: tuple[int, ...] = (1,)) -> Denoiser:
    """Independent N(mean, std²) coordinates, in float64."""
    count = int(torch.tensor(shape).prod())
    full = torch.full(shape, mean, dtype=torch.float64)
    return Gaussian(full, std**2 * torch.eye(count, dtype=torch.float64)).denoiser(schedule or VE(0.002, 80.0))


def classes() -> GaussianMixture:
    """Four components in the plane, two classes, float64."""
    means = torch.tensor([[2.0, 0.0], [-2.0, 0.5], [0.0, 2.0], [0.5, -2.0]], dtype=torch.float64)
    return GaussianMixture(
        torch.tensor([0.3, 0.2, 0.25, 0.25], dtype=torch.float64),
        means,
        0.36 * torch.eye(2, dtype=torch.float64).expand(4, 2, 2),
        labels=[0, 0, 1, 1],
    )


def line(denoise: Denoiser, steps: int, solver: Solver | None = None, start: float = 80.0) -> tuple[float, float]:
    """(mean, std) of what a run makes of N(0, start²), for a guided ODE that is linear in x: where 0 and 1 go says it all."""
    x = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    grid = grids.karras(start=-2.0 * math.log(start))
    end = sample(denoise, cond=Cond(label=0), x=x, solver=solver or Heun(), steps=steps, grid=grid)
    return float(end[0]), start * float(end[1] - end[0])
