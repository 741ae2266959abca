"""Inversions that keep noises: what each stochastic move must have drawn to visit given states."""

from collections.abc import Sequence

import torch
from torch import Tensor

from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser
from reverie.core.errors import InputError
from reverie.core.schedules import HostPoint
from reverie.core.tensors import combine
from reverie.solve.onestep import DDIM
from reverie.solve.plan import PlanStep, plain


def moves(denoise: Denoiser, eta: float, points: Sequence[HostPoint]) -> tuple[PlanStep, ...]:
    """The moves of DDIM(η) from noise to data, each with noise to draw.

    Raises:
        InputError: for η = 0, which draws none.
    """
    if not 0.0 < eta <= 1.0:
        raise InputError(f"eta is in (0, 1]: without noise in the moves there is none to keep: got {eta}")
    return DDIM(eta).plan(denoise.schedule, plain(points)).steps


def drawn(denoise: Denoiser, step: PlanStep, x: Tensor, wanted: Tensor, cond: Cond | None) -> tuple[Tensor, Tensor]:
    """``n = (x_u − μ(x_t))/s``, which takes the move from ``x`` to ``wanted``, and where it takes it: no rounding is handed on."""
    row = step.row
    estimate = denoise(x, row.point, cond)
    a, b = estimate.coefficients(*row.pair)
    mean = combine((row.c + row.w[0] * a, row.w[0] * b), (x, estimate.out))
    noise = (wanted - mean) / row.s
    return noise, torch.add(mean, noise, alpha=row.s)
