"""A denoiser as a :class:`~reverie.core.generator.Generator`: with the solver, the steps and the grid that it is drawn from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor

from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser
from reverie.core.generator import Frame, Generator
from reverie.core.space import Identity
from reverie.solve.adaptive import RK45
from reverie.solve.auto import choose
from reverie.solve.grids import Grid
from reverie.solve.invert import chain
from reverie.solve.likelihood import log_prob
from reverie.solve.plan import Solver
from reverie.solve.sampling import Seeds, sample


class Sampler(Generator):
    """Draws as ``rv.sample(denoise, solver=…, steps=…, grid=…, scale=1)`` does.

    Its ``log_prob`` is the density of the model's probability flow, whatever solver draws and guides push: :func:`log_prob` with
    RK45 at a tolerance of 10⁻², where it is off by .01 bits a dimension at most.

    Args:
        denoise: the model, guided or not.
        solver, steps, grid: as of :func:`reverie.solve.sample`.
    """

    def __init__(
        self, denoise: Denoiser, solver: Solver | str | None = None, steps: int = 30, grid: Grid | str | None = None
    ) -> None:
        self.denoise, self.steps = denoise, steps
        self.solver, self.grid = choose(denoise, solver, grid, steps)
        self.shape, self.conditions = denoise.space.data_shape(denoise.shape), denoise.conditions
        if isinstance(denoise.space, Identity):  # codes have a density, the pictures they stand for have none
            self.log_prob = self._log_prob

    def sample(
        self,
        n: int | None = None,
        cond: Cond | None = None,
        *,
        seed: Seeds = 0,
        batch_size: int | None = None,
        on_step: Callable[[Frame], None] | None = None,
    ) -> Tensor:
        how = (self.solver, self.steps, self.grid)
        return sample(
            self.denoise, n, cond, *how, seed=seed, batch_size=batch_size, on_step=on_step, progress="", scale=1.0
        )

    def __repr__(self) -> str:
        return f"Sampler({self.denoise!r}, {self.solver!r}, {self.steps} steps, {self.grid!r})"

    def _log_prob(self, x: Tensor, cond: Cond | None = None) -> Tensor:
        return log_prob(chain(self.denoise)[-1], x, cond, RK45(rtol=1e-2, atol=1e-2))

    def settings(self) -> dict[str, Any]:
        how: dict[str, Any] = {"solver": repr(self.solver), "grid": repr(self.grid), "steps": self.steps}
        how["guidance"] = self.denoise.guidance
        if (interval := getattr(self.denoise, "interval", None)) is not None:
            how["interval"] = "{:g} to {:g}".format(*interval)
        return how

    def modules(self) -> Mapping[str, torch.nn.Module]:
        net = getattr(self.denoise, "net", None)
        return {} if net is None else {"denoiser": net}

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        self.denoise.to(device=device, dtype=dtype)  # pyright: ignore[reportAttributeAccessIssue]
        return self
