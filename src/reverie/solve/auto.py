"""What is used when nobody chooses: solver and grid as a function of the number of evaluations and the guidance scale, by measurement.

``bench/solvers.py`` makes the measurement.
"""

from collections.abc import Callable

from reverie.core.denoiser import Denoiser
from reverie.core.errors import unknown
from reverie.solve.grids import Grid, logistic
from reverie.solve.multistep import DEIS, DPMpp, Multistep, UniPC
from reverie.solve.onestep import DDIM, DDPM
from reverie.solve.plan import Solver
from reverie.solve.rungekutta import Euler, Heun

NAMED: dict[str, Callable[[], Solver]] = {
    "ddim": DDIM,
    "ddpm": DDPM,
    "deis2": lambda: DEIS(2),
    "deis3": lambda: DEIS(3),
    "dpmpp2": lambda: DPMpp(2),
    "dpmpp3": lambda: DPMpp(3),
    "euler": Euler,
    "heun": Heun,
    "unipc2": lambda: UniPC(2),
    "unipc3": lambda: UniPC(3),
}
"""Solvers by name, for the command line and recipes."""


def named(name: str) -> Solver:
    """The solver called ``name``, see :data:`NAMED`.

    Raises:
        InputError: for an unknown name, with the nearest one.
    """
    if name not in NAMED:
        raise unknown("solver", name, [*NAMED, "auto"])
    return NAMED[name]()


def default(steps: int, guidance: float = 1.0) -> tuple[Multistep, logistic]:
    """The measured best deterministic solver and grid for so many evaluations at a guidance scale.

    Interpolation of ε − x0 in τ. Below eight evaluations a corrector costs accuracy; the last move is of low order until the steps are
    small.
    """
    if steps < 8:
        return Multistep(4, final_order=2), logistic(0.8, 2.5, reach=4.6)
    return Multistep(5, corrector=True, final_order=1 if steps < 15 else 2 if steps < 30 else 3), logistic()


def choose(
    denoise: Denoiser, solver: Solver | str | None, grid: Grid | None, steps: int, whole: bool = True
) -> tuple[Solver, Grid]:
    """The solver and grid of a run: what was given, the model's calibration for this many steps, or :func:`default`.

    ``whole`` says that the run goes all the way from noise to data: a calibration serves no other.

    Raises:
        InputError: for an unknown name of a solver.
    """
    usual, usual_grid = default(steps, denoise.guidance)
    if isinstance(solver, str) and solver != "auto":
        solver = named(solver)
    if solver is None or isinstance(solver, str):
        calibrated = getattr(denoise, "calibrations", {}).get(steps)
        if whole and calibrated is not None and grid is None and calibrated.guidance == denoise.guidance:
            return calibrated.solver, calibrated
        solver = usual
    return solver, usual_grid if grid is None else grid
