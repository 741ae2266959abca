"""A denoiser or a flow map as a :class:`~reverie.core.generator.Generator`: with the steps and the grid that it is drawn from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor

from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser
from reverie.core.flow_map import FlowMap
from reverie.core.generator import Frame, Generator
from reverie.core.space import Identity
from reverie.solve.adaptive import RK45
from reverie.solve.auto import choose
from reverie.solve.grids import Grid, named
from reverie.solve.invert import chain
from reverie.solve.likelihood import log_prob
from reverie.solve.plan import Solver
from reverie.solve.sampling import Seeds, leaps, sample


class Sampler(Generator):
    """Draws as ``rv.sample(denoise, solver=…, steps=…, grid=…, scale=1, temperature=…)`` does.

    Its ``log_prob`` is the density of the model's probability flow, whatever solver draws and guides push: :func:`log_prob` with
    RK45 at a tolerance of 10⁻², where it is off by .01 bits a dimension at most.

    Args:
        denoise: the model, guided or not.
        solver, steps, grid: as of :func:`reverie.solve.sample`.
        temperature: of the noise that a run begins from.
    """

    def __init__(
        self,
        denoise: Denoiser,
        solver: Solver | str | None = None,
        steps: int = 30,
        grid: Grid | str | None = None,
        temperature: float = 1.0,
    ) -> None:
        self.denoise, self.steps, self.temperature = denoise, steps, temperature
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
        how: dict[str, Any] = {"solver": self.solver, "steps": self.steps, "grid": self.grid, "scale": 1.0}
        how |= {"temperature": self.temperature, "batch_size": batch_size, "on_step": on_step}
        return sample(self.denoise, n, cond, seed=seed, progress="", **how)

    def __repr__(self) -> str:
        return f"Sampler({self.denoise!r}, {self.solver!r}, {self.steps} steps, {self.grid!r})"

    def _log_prob(self, x: Tensor, cond: Cond | None = None) -> Tensor:
        return log_prob(chain(self.denoise)[-1], x, cond, RK45(rtol=1e-2, atol=1e-2))

    def settings(self) -> dict[str, Any]:
        how: dict[str, Any] = {"solver": repr(self.solver), "grid": repr(self.grid), "steps": self.steps}
        how["guidance"] = self.denoise.guidance
        if (interval := getattr(self.denoise, "interval", None)) is not None:
            how["interval"] = "{:g} to {:g}".format(*interval)
        if self.temperature != 1.0:
            how["temperature"] = self.temperature
        return how

    def modules(self) -> Mapping[str, torch.nn.Module]:
        net = getattr(self.denoise, "net", None)
        return {} if net is None else {"denoiser": net}

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        self.denoise.to(device=device, dtype=dtype)  # pyright: ignore[reportAttributeAccessIssue]
        return self


class Leaps(Generator):
    """A flow map as a :class:`~reverie.core.generator.Generator`: with the steps and the grid of its leaps.

    Args:
        flow_map: what leaps.
        steps: evaluations.
        grid: where the leaps end; uniform in time by default.
        renoise: whether each leap goes to clean data, to which fresh noise is added for the next (Song et al. 2023, algorithm 1), in place
            of along the flow; by default where the map leaps no other way.
    """

    def __init__(
        self, flow_map: FlowMap, steps: int = 1, grid: Grid | str | None = None, renoise: bool | None = None
    ) -> None:
        self.flow_map, self.steps, self.grid = flow_map, steps, named("time" if grid is None else grid)
        self.renoise = not flow_map.anywhere if renoise is None else renoise
        self.shape, self.conditions = flow_map.space.data_shape(flow_map.shape), flow_map.conditions

    def sample(
        self,
        n: int | None = None,
        cond: Cond | None = None,
        *,
        seed: Seeds = 0,
        batch_size: int | None = None,
        on_step: Callable[[Frame], None] | None = None,
    ) -> Tensor:
        how = (self.steps, self.grid, self.renoise)
        return leaps(self.flow_map, n, cond, *how, seed=seed, batch_size=batch_size, on_step=on_step)

    @property
    def conditioner(self) -> Any:
        """That of the network that leaps; None where there is no network."""
        return getattr(getattr(self.flow_map, "denoise", None), "conditioner", None)

    def __repr__(self) -> str:
        return f"Leaps({self.flow_map!r}, {self.steps} steps, {self.grid!r}, renoise={self.renoise})"

    def settings(self) -> dict[str, Any]:
        return {"steps": self.steps, "grid": repr(self.grid), "renoise": self.renoise}

    def modules(self) -> Mapping[str, torch.nn.Module]:
        net = getattr(getattr(self.flow_map, "denoise", None), "net", None)
        return {} if net is None else {"student": net}

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        self.flow_map.to(device, dtype)  # pyright: ignore[reportAttributeAccessIssue]
        return self
