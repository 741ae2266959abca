"""How a model's own recipe draws from it: what ``rv.sample`` takes where it is not told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reverie.core.denoiser import Denoiser


@dataclass(frozen=True)
class Sampling:
    """The settings of a recipe, as a loaded model remembers them.

    Attributes:
        solver, steps, grid: as of :func:`reverie.sample`; the grid by name, None for what suits the solver.
        scale: of guidance.
        temperature: of the noise that a run begins from.
        guided: ``(denoise, scale) -> Denoiser``, the model guided as the recipe guides it.
    """

    solver: str
    steps: int
    grid: str | None
    scale: float
    temperature: float
    guided: Callable[[Denoiser, float], Denoiser]
