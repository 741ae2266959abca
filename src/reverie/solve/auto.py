"""What is used when nobody chooses: solver and grid by the number of evaluations, the guidance scale, the size of a sample, and what a
probe says of a network.

``bench/solvers.py`` makes the measurement.
"""

import math
from collections.abc import Callable
from typing import Any, get_args

from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser, Wrapper
from reverie.core.errors import InputError, unknown
from reverie.core.names import GridName
from reverie.solve import grids
from reverie.solve.grids import Grid, fitted, karras, logistic
from reverie.solve.multistep import DEIS, DPMpp, Multistep, UniPC
from reverie.solve.onestep import DDIM, DDPM
from reverie.solve.plan import Solver
from reverie.solve.probe import Probe, probed
from reverie.solve.rungekutta import Churn, DPMpp2S, Euler, Heun
from reverie.solve.stochastic import EulerMaruyama, SDEDPMpp

NAMED: dict[str, Callable[[], Solver]] = {
    "ddim": DDIM,
    "ddpm": DDPM,
    "churn": Churn,
    "deis2": lambda: DEIS(2),
    "deis3": lambda: DEIS(3),
    "dpmpp2": lambda: DPMpp(2),
    "dpmpp3": lambda: DPMpp(3),
    "dpmpp2s": DPMpp2S,
    "euler": Euler,
    "eulermaruyama": EulerMaruyama,
    "heun": Heun,
    "sdedpmpp2": SDEDPMpp,
    "unipc2": lambda: UniPC(2),
    "unipc3": lambda: UniPC(3),
}
"""Solvers by name."""
ELSEWHERE: dict[str, Callable[[], Solver]] = {
    "dpmpp_2m": lambda: DPMpp(2),
    "dpmpp_2m_sde": SDEDPMpp,
    "euler_ancestral": lambda: DDIM(1.0),
    "lms": lambda: DEIS(4, "rho"),
    "uni_pc": lambda: UniPC(3, "bh1", lower_order_final=True),
    "uni_pc_bh2": lambda: UniPC(3, "bh2", lower_order_final=True),
}
"""Names that k-diffusion and ComfyUI have for the same formula, in σ/α and x/α; ddim, ddpm, euler and heun are theirs too."""
CHOICES = ("auto", "default", "stochastic", *NAMED, *ELSEWHERE)
"""What the command line and recipes take; each name may end in that of a grid, as ``dpmpp_2m_karras`` does."""
STEPS = 30
"""Steps of a run whose number nobody chooses."""


def split(solver: Solver | str | None) -> tuple[Solver | str | None, str | None]:
    """A solver's name without, and the grid's name at its end: ``dpmpp_2m_karras`` is dpmpp_2m on the grid karras."""
    if isinstance(solver, str) and solver not in CHOICES:
        for grid in get_args(GridName):
            if solver.removesuffix(f"_{grid}") in CHOICES:
                return solver.removesuffix(f"_{grid}"), grid
    return solver, None


def named(solver: Solver | str) -> Solver:
    """The solver of that name, see :data:`NAMED` and :data:`ELSEWHERE`; a solver is itself.

    Raises:
        InputError: for an unknown name, with the nearest one, or something that is no solver.
    """
    if isinstance(solver, str):
        if solver not in {**NAMED, **ELSEWHERE}:
            raise unknown("solver", solver, CHOICES)
        return {**NAMED, **ELSEWHERE}[solver]()
    if isinstance(solver, type) or not hasattr(solver, "plan"):
        raise InputError(f"a solver is a name, such as 'heun', or made by a call, such as solve.Heun(): got {solver!r}")
    return solver


def default(steps: int, guidance: float = 1.0, dimensions: int = 64) -> tuple[Multistep | DPMpp, logistic | fitted]:
    """The measured best deterministic solver and grid for so many evaluations at a guidance scale, for samples of so many numbers.

    It interpolates ε − x0 in τ. Up to 22 evaluations it is of order 3 or 4, on nodes and with weights of the corrector that are fitted:
    there the places of the nodes matter more than the order. From 36 it is 5: before that a network's own error costs more than order 5
    gains. The last move is of order 2 until the steps are small. Guidance makes the flow stiff and an interval is a jump, across which
    high orders extrapolate: under guidance it is of order 2, on a grid nearer to the noise, with half of the corrector below 2.5
    evaluations a unit of the scale, and none below 1.5.

    The same picture with n times as many pixels shows at √n times the noise (Esser et al. 2024, section 5.3.2). So above 512 dimensions,
    where that is measured to begin, the nodes lie earlier by ``½ log(dimensions/512)`` in λ; unguided less so below 10 steps.
    """
    earlier = 0.5 * math.log(max(1.0, dimensions / 512))
    if guidance > 1.0:
        each = steps / guidance
        if each < 1.5:
            return DPMpp(1 if each < 1.0 else 2), logistic(0.5 - earlier, 1.4, 1.4, 4.6)
        solver = Multistep(2, corrector=0.5 if each < 2.5 else 1.0, final_order=2)
        return solver, logistic(-earlier, 1.2, 1.8, 4.6 if steps < 30 else 6.0)
    if steps < 23:
        order = 3 if steps < 15 else 4
        few = min(1.0, max(0.0, 0.2 * steps - 1.0))
        return Multistep(order, corrector=fitted.corrector_weights(steps), final_order=2), fitted(earlier=few * earlier)
    if steps < 36:
        return Multistep(4, corrector=1.0, final_order=2), logistic(0.5 - earlier, 1.5, 2.0)
    return Multistep(5, corrector=1.0, final_order=3), logistic(1.1 - earlier)


FAR, ROUGH = 0.5, 0.002
"""Of a probe: beyond the first a network is off at pure noise, beyond the second not as smooth in t as a closed form."""


def suited(
    found: Probe | None, steps: int, guidance: float = 1.0, dimensions: int = 64
) -> tuple[Multistep | DPMpp, logistic | fitted | karras]:
    """:func:`default`, unless a probe has found a network that it does not suit.

    A network that is far off at pure noise gets a polynomial in ε and λ, where it is smooth, on a grid near that of Karras et al.; the
    corrector waits until the steps are shorter. From eight evaluations on one that predicts clean data gets a polynomial in x0 and λ: an
    error δ of x0 is one of δ·α/σ in ε − x0, which is not smooth in τ as σ falls. From 15 on one that is told log σ gets steps that are
    nearly even in λ. Of the others, unguided and below 36, those that are smooth in t keep the default from 8 to 17. Else it is order 2
    below 15, with three quarters of the corrector below eight; order 3 on wide steps for those that are rough, up to 22; and then order 4.
    """
    earlier = 0.5 * math.log(max(1.0, dimensions / 512))
    if found is not None and found.far > FAR:
        corrector = 0.0 if steps < 8 else min(1.0, max(0.5, 0.05 * steps - 0.25))
        return Multistep(2, "eps", "logsnr", corrector, final_order=2), karras(5.0 if steps < 15 else 4.0)
    if found is None or steps < 2.0 * guidance:
        return default(steps, guidance, dimensions)
    if steps >= 8 and found.data:
        return Multistep(3, "x0", "logsnr", 1.0, final_order=2 if steps < 15 else 3), logistic(1.1 - earlier)
    if steps >= 15 and found.log:
        return Multistep(3, corrector=1.0, final_order=2), logistic(0.0, 4.0, 4.0)
    smooth = found.rough <= ROUGH
    if guidance > 1.0 or steps >= 36 or (smooth and 8 <= steps < 18):
        return default(steps, guidance, dimensions)
    if steps < 15:
        return Multistep(2, corrector=0.75 if steps < 8 else 1.0, final_order=2), logistic(0.0, 1.2, 1.8, 4.6)
    if steps < 23 and not smooth:
        return Multistep(3, corrector=1.0, final_order=2), logistic(0.0, 3.0, 2.0)
    return Multistep(4, corrector=1.0, final_order=2), logistic(-earlier, 1.2, 1.8, 4.6 if steps < 30 else 6.0)


def stock(steps: int, guidance: float = 1.0, dimensions: int = 64) -> list[tuple[Multistep | DPMpp, Any]]:
    """The plans that suit some model, :func:`default` first: where a calibration looks for its beginning."""
    plain = [
        (Multistep(order, corrector=corrector, final_order=2), grid)
        for order, corrector, grid in (
            (2, 0.75, logistic(0.0, 1.2, 1.8, 4.6)),
            (2, 1.0, logistic(0.0, 1.2, 1.8, 4.6)),
            (4, 1.0, logistic(0.0, 1.2, 1.8)),
            (2, 1.0, logistic()),
            (4, 1.0, logistic()),
            (2, 1.0, logistic(-1.0, 2.5, 2.0)),
            (3, 1.0, logistic(0.0, 4.0, 4.0)),
            (2, 1.0, grids.time()),
        )
    ]
    clean = Multistep(3, "x0", "logsnr", 1.0, final_order=2), logistic()
    off = suited(Probe(1.0, 0.0), steps, guidance, dimensions)
    return [default(steps, guidance, dimensions), *plain, clean, off]


def choose(
    denoise: Denoiser, solver: Solver | str | None, grid: Grid | str | None, steps: int, whole: bool = True
) -> tuple[Solver, Grid]:
    """The solver and grid of a run: what was given, the model's calibration for this many steps, or what is :func:`suited`.

    "default" is :func:`default`, with neither calibration nor probe. "ddpm" takes the variance that the model learned, if it did.
    "stochastic" is SDE-DPM-Solver++ 2M on the grid of Karras et al. ``whole`` says that the run goes all the way from noise to data: a
    calibration serves no other.

    Raises:
        InputError: for an unknown name of a solver or grid, or a grid beside a solver whose name ends in one.
    """
    solver, own = split(solver)
    if own is not None and grid is not None:
        raise InputError(f"the solver's name says the grid {own}: leave grid={grid!r} out")
    grid = own if grid is None else grid
    usual, usual_grid = default(steps, denoise.guidance, math.prod(denoise.shape))
    if solver is None or solver == "auto":
        calibrated = getattr(denoise, "calibrations", {}).get((steps, denoise.guidance))
        if whole and calibrated is not None and grid is None:
            return calibrated.solver, calibrated
        solver, usual_grid = suited(probed(denoise), steps, denoise.guidance, math.prod(denoise.shape))
    elif solver == "default":
        solver = usual
    elif solver == "stochastic":
        solver, usual_grid = SDEDPMpp(), karras()
    elif solver == "ddpm" and getattr(denoise, "learned_variance", False):
        solver = DDPM("learned")
    return named(solver), usual_grid if grid is None else grids.named(grid)


def recalled(
    denoise: Denoiser,
    cond: Cond | None,
    solver: Solver | str | None,
    steps: int | None,
    grid: Grid | str | None,
    scale: float | None,
) -> tuple[Denoiser, Solver | str | None, int, Grid | str | None]:
    """What was given of a run, and the rest as the model's recipe says: its solver, steps and grid, and its guidance around a model that
    stands alone and is told a condition.

    Raises:
        InputError: for a scale of a model that is guided already, has no recipe, or is told no condition.
    """
    own = denoise.sampling
    if own is not None:
        if grid is None and (solver is None or split(solver)[1] is None):
            grid = own.grid
        solver, steps = own.solver if solver is None else solver, own.steps if steps is None else steps
    if own is None or isinstance(denoise, Wrapper):
        if scale not in (None, 1.0):
            raise InputError(
                f"scale={scale:g} is of a model that `rv.load` opened from a run; any other is guided by rv.guide.cfg(denoise, {scale:g})"
            )
        scale = 1.0
    elif cond is None and scale not in (None, 1.0):
        raise InputError(f"scale={scale:g} guides towards a condition: give cond=, or leave scale out")
    elif scale is None:
        scale = 1.0 if cond is None else own.scale
    if scale != 1.0 and own is not None:
        denoise = own.guided(denoise, scale)
    return denoise, solver, STEPS if steps is None else steps, grid
