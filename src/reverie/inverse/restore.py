"""Restoration by any of the posterior methods, each at its measured default: what the command line and the bench call."""

import math
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from reverie.core.condition import Cond
from reverie.core.count import Count
from reverie.core.denoiser import Denoiser, counted
from reverie.core.errors import InputError, unknown
from reverie.core.space import Identity
from reverie.core.tensors import finite
from reverie.inverse.dflow import dflow
from reverie.inverse.dps import dps
from reverie.inverse.operators import Operator, consistency, residual
from reverie.inverse.pigdm import pigdm
from reverie.inverse.reddiff import reddiff
from reverie.inverse.repaint import RePaint
from reverie.solve.grids import logistic
from reverie.solve.onestep import DDIM, DDPM
from reverie.solve.plan import Walk, plain
from reverie.solve.sampling import Seeds, sample
from reverie.solve.walks import repaint


class Problem(NamedTuple):
    """What is to be restored: ``y = operator(x) + noise``, (n, …), by how many ``steps``."""

    operator: Operator
    y: Tensor
    noise: float
    cond: Cond | None
    steps: int
    seed: Seeds


class Restored(NamedTuple):
    """``images`` (n, C, H, W), their :func:`~reverie.inverse.operators.consistency` (n,), and passes forward and back a sample."""

    images: Tensor
    consistency: Tensor
    evaluations: float
    backwards: float


def _pigdm(denoise: Denoiser, p: Problem) -> Tensor:
    guided = pigdm(denoise, p.operator, p.y, p.noise)
    return sample(guided, len(p.y), p.cond, DDIM(1.0), p.steps, logistic(), p.seed, scale=1.0)


def _dps(denoise: Denoiser, p: Problem) -> Tensor:
    strength = (p.operator.gram or 1.0) ** 0.5  # of A, which the gradient of a norm is proportional to
    solver = dps(p.operator, p.y, 100.0 / (p.steps * strength), DDPM(), denoise.space)
    return sample(denoise, len(p.y), p.cond, solver, p.steps, logistic(), p.seed, scale=1.0)


def _repaint(denoise: Denoiser, p: Problem) -> Tensor:
    if not isinstance(denoise.space, Identity):
        raise InputError("repaint pastes pixels into the noisy state, which here is a latent code: use pigdm or dps")
    solver = RePaint(p.operator, p.y, p.noise)
    points = logistic()(denoise.schedule, max(2, p.steps // 4))
    last = max((i for i, point in enumerate(points) if i and solver.acts(point)), default=0)
    walk: Walk = plain(points)
    if last > 1:  # time travel only while the measurement holds the state
        walk = (*repaint(points[: last + 1], max(1, last // 10), 4), *plain(points[last:]))
    return sample(denoise, len(p.y), p.cond, solver, seed=p.seed, walk=walk, scale=1.0)


def _reddiff(denoise: Denoiser, p: Problem) -> Tensor:
    init = p.operator.adjoint(p.operator.solve(p.y, 1.0, p.noise**2))  # A⁺y, but for directions that noise drowns
    return reddiff(denoise, p.operator, p.y, cond=p.cond, steps=p.steps, seed=p.seed, init=init)


def _dflow(denoise: Denoiser, p: Problem) -> Tensor:
    losses = [_squared(p.operator, y[None]) for y in p.y]
    return dflow(denoise, losses, len(p.y), p.cond, iterations=max(1, p.steps // 10), seed=p.seed).images


def _squared(operator: Operator, y: Tensor) -> Callable[[Tensor], Tensor]:
    distance = residual(operator, y)
    return lambda images: distance(images).square()


METHODS: dict[str, Callable[[Denoiser, Problem], Tensor]] = {
    "dflow": _dflow,
    "dps": _dps,
    "pigdm": _pigdm,
    "reddiff": _reddiff,
    "repaint": _repaint,
}


def restore(
    denoise: Denoiser,
    operator: Operator,
    y: Tensor,
    method: str = "pigdm",
    *,
    noise: float = 0.0,
    cond: Cond | None = None,
    steps: int = 100,
    seed: Seeds = 0,
) -> Restored:
    """Images that ``denoise`` finds likely and that ``operator`` measures as ``y``.

    Args:
        denoise: any denoiser, guided or not; not inside torch.no_grad().
        operator: what was done to the image.
        y: what is left of it, one for each image to draw, (n, …).
        method: one of :data:`METHODS`.
        noise: standard deviation of the noise in ``y``; pigdm and repaint use it.
        cond: one condition for all, or one an image.
        steps: evaluations of the network an image, about; a tenth as many iterations of dflow, each several runs of 6 steps.
        seed: as in :func:`reverie.sample`.

    Raises:
        InputError: for an unknown method, or one that needs of the operator what it does not have.
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    if not 0.0 <= noise < math.inf:
        raise InputError(f"noise is the standard deviation of the measurement's noise, at least 0: got {noise}")
    if not finite(y):
        raise InputError("the measurement holds numbers that are not finite")
    if steps < 1:
        raise InputError(f"steps is a whole number of at least 1: got {steps}")
    problem, cost = Problem(operator, y.to(denoise.device), noise, cond, steps, seed), Count()
    images, n = METHODS[method](counted(denoise, cost), problem), len(y)
    return Restored(images, consistency(operator, y, images), cost.evaluations / n, cost.backwards / n)
