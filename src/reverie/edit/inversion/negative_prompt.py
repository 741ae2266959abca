"""Negative-prompt inversion (Miyake et al. 2023): the picture's own condition in the place of the null.

Null-text optimisation ends near the source condition; putting that there at once costs nothing. Under the source condition guidance is then
from it towards itself, which is none at any scale, so plain inversion comes back; under another it leads from the one to the other.
"""

from torch import Tensor

from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser
from reverie.edit.inversion.ode import along
from reverie.edit.inversion.record import Inversion
from reverie.solve.grids import Grid
from reverie.solve.plan import Solver
from reverie.solve.rungekutta import Heun


def negative_prompt(
    denoise: Denoiser,
    images: Tensor,
    cond: Cond,
    steps: int = 50,
    solver: Solver | str | None = None,
    grid: Grid | str | None = None,
    *,
    scale: float = 7.5,
) -> Inversion:
    """Invert along the unguided flow, to be decoded at ``scale`` away from ``cond``.

    Args:
        denoise: the model, unguided.
        images: (n, C, H, W) in [−1, 1].
        cond: of the pictures: one for all, or one a picture.
        steps, solver, grid: as of :func:`reverie.solve.invert`; Heun's method by default.
        scale: of guidance that edits decode with.

    Raises:
        InputError: as :func:`reverie.solve.invert`.
    """
    solver = Heun("straight") if solver is None else solver
    return along(denoise, images, cond, steps, solver, grid, method="negative_prompt", scale=scale)
