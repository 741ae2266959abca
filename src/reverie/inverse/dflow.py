"""D-Flow: control by the initial noise, optimised through the whole ODE (Ben-Hamu et al. 2024, "D-Flow: differentiating through flows")."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from reverie.core.call import Call
from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser, Wrapper
from reverie.core.errors import InputError
from reverie.core.estimate import Estimate
from reverie.core.schedules import Point
from reverie.core.space import Identity
from reverie.core.tensors import Scalar
from reverie.guide.gradient import Energy, measure, need_gradients
from reverie.solve.grids import Grid, time
from reverie.solve.latent import initial
from reverie.solve.plan import Solver
from reverie.solve.rungekutta import Heun
from reverie.solve.sampling import Seeds, sample


class Checkpointed(Wrapper):
    """A denoiser whose evaluations are made again on the way back instead of kept: memory is one evaluation and the states."""

    def __call__(self, x: Tensor, t: Point | Scalar, cond: Cond | None = None, call: Call | None = None) -> Estimate:
        return checkpoint(self.base, x, t, cond, call, use_reentrant=False, preserve_rng_state=False)  # pyright: ignore[reportReturnType]


class Controlled(NamedTuple):
    """``images`` (n, C, H, W), the ``source`` noise that they are drawn from, and the final ``loss`` (n,)."""

    images: Tensor
    source: Tensor
    loss: Tensor


def dflow(
    denoise: Denoiser,
    loss: Energy | Sequence[Energy],
    n: int = 1,
    cond: Cond | None = None,
    steps: int = 6,
    iterations: int = 20,
    solver: Solver = Heun("straight"),
    grid: Grid = time(),
    seed: Seeds = 0,
    source: Tensor | None = None,
) -> Controlled:
    """Minimise ``loss(sample(x))`` over the initial noise x by L-BFGS with a line search, from the noise of ``seed``.

    Descent in the source stays on what the model can draw. For Gaussian data and a linear measurement it ends at Matheron's rule, a
    sample of the posterior (tested). Samples are optimised one by one: curvature and line search would mix them.

    Args:
        denoise: any denoiser, guided or not.
        loss: images (B, C, H, W) -> (B,), such as the square of :func:`~reverie.inverse.operators.residual`; one for all, or one a sample.
        n: how many.
        cond: one condition for all, or one a sample.
        steps, grid, solver: of the ODE; the solver is deterministic.
        iterations: of L-BFGS, each a few runs forward and back.
        source: noise to start from, (n, …) in the diffused space, in place of the seed's.

    Raises:
        InputError: with gradients off, or for another number of losses than samples, or one that is not finite.
    """
    need_gradients("dflow")
    losses = [loss] * n if callable(loss) else list(loss)
    if len(losses) != n:
        raise InputError(f"dflow takes one loss for all samples or one a sample: got {len(losses)} for {n} samples")
    cond = None if cond is None else cond.expand(n)
    source = initial(denoise, n, seed, grid=grid) if source is None else source
    parts = [
        _one(
            denoise,
            losses[i],
            source[i : i + 1],
            None if cond is None else cond.index([i]),
            steps,
            iterations,
            solver,
            grid,
        )
        for i in range(n)
    ]
    return Controlled(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _one(
    denoise: Denoiser,
    loss: Energy,
    source: Tensor,
    cond: Cond | None,
    steps: int,
    iterations: int,
    solver: Solver,
    grid: Grid,
) -> Controlled:
    x = source.detach().clone().requires_grad_()
    frugal, pixels = Checkpointed(denoise), Identity()
    how: dict[str, Any] = {"solver": solver, "steps": steps, "grid": grid, "scale": 1.0}
    lbfgs = torch.optim.LBFGS(
        [x], max_iter=iterations, tolerance_grad=1e-12, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        images = sample(frugal, x=x, cond=cond, progress="", **how)
        value = measure(loss, pixels, images)
        (x.grad,) = torch.autograd.grad(value.sum(), x)
        return value.sum()

    lbfgs.step(closure)
    with torch.no_grad():
        images = sample(denoise, x=x, cond=cond, progress="", **how)
        return Controlled(images, x.detach(), loss(images))
