"""Diffusion posterior sampling (Chung et al. 2023, "Diffusion posterior sampling for general noisy inverse problems", algorithm 1)."""

from torch import Tensor

from reverie.core.space import Identity, Space
from reverie.guide.freedom import FreeDoM
from reverie.inverse.operators import Operator, residual
from reverie.solve.onestep import DDPM
from reverie.solve.plan import Solver


def dps(
    operator: Operator, y: Tensor, scale: float = 1.0, solver: Solver = DDPM(), space: Space = Identity()
) -> FreeDoM:
    """``x_u ← x_u − ζ∇_{x_t}‖y − A(x̂0)‖₂`` after each ancestral step; A may be anything differentiable.

    The norm is of each sample, not squared. The paper takes ζ = 0.3 to 1 at 1,000 steps, and with fewer steps it grows in proportion. It
    does not sample the posterior: on Gaussian data its covariance is wrong by a tenth and more (tested).

    Args:
        operator, y: the measurement, ``y`` (1 or B, …).
        scale: ζ.
        solver: what moves.
        space: of the denoiser, ``denoise.space``.
    """
    return FreeDoM(solver, residual(operator, y), scale, space)
