"""Likelihood: the density that the probability flow gives to data, by integrating (x, log p) from the data to the noise.

A solver of ``d(x/M) = y dμ`` is exact where y is a polynomial; the log-density has slopes of its own. With z = x/M,
``d log p(z) = −tr(∂y/∂z) dμ`` and log p(x) = log p(z) − d·log M, so the row ``x_u = c·x + Σ w_j·y_{−j}`` with c = M_u/M_t goes with

    ``log p(x_u) = log p(x_t) − d·log c − Σ w_j·(M_j/M_u)·tr(∂y_{−j}/∂x_j)``.

For a variable y = p·x0 + q·ε of constant (p, q) the scale is M = qα − pσ, so every deterministic table gets its second row of
coefficients without being asked, and the pair (x, log p) has the order of the solver.
"""

import dataclasses
import math
import warnings
from typing import Literal

import torch
from torch import Tensor

from reverie.core.condition import Cond, as_cond
from reverie.core.denoiser import Denoiser
from reverie.core.errors import InputError, unknown
from reverie.core.noise import Tape, sample_seeds
from reverie.core.predictions import Pair
from reverie.core.schedules import HostPoint, Point
from reverie.core.tensors import combine
from reverie.solve import grids
from reverie.solve.adaptive import RK45, Tensors, integrate, straight_point
from reverie.solve.auto import named
from reverie.solve.grids import Grid
from reverie.solve.invert import chain, check_flow, data_point, outward, turned
from reverie.solve.plan import Plan, Solver, TableSolver
from reverie.solve.sampling import Seeds
from reverie.solve.variables import STRAIGHT

Trace = Literal["hutchinson", "exact"]


def log_prob(
    denoise: Denoiser,
    x: Tensor,
    cond: Cond | None = None,
    solver: Solver | str | None = None,
    steps: int = 100,
    grid: Grid | str | None = None,
    trace: Trace = "hutchinson",
    probes: int = 1,
    seed: Seeds = 0,
) -> Tensor:
    """Log-density in nats of ``x`` under the model: of what :func:`sample` draws with a deterministic solver (Song et al. 2021, §4.3).

    The integration starts at the finite logsnr of :func:`invert` (σ/α = 10⁻³, or where the path or the grid ends): the density is that
    of the data blurred by noise of this standard deviation. It ends at the grid's start, with the prior N(0, σ²) that sampling starts
    from, σ the path's own noise level there (80 on the default VE path, not 1).

    Under guidance this is the density of the guided flow, not of a reweighted model, and a warning says so.
    When gradients are enabled the result is differentiable in ``x`` and in the weights; use ``torch.no_grad()`` to save the memory.

    Args:
        denoise: the model.
        x: ``(B, *denoise.shape)`` in the diffused space, for a model of images dequantised with :func:`dequantise`.
        cond: one condition for all, or one a sample.
        solver: :class:`RK45` by default; any deterministic table serves (Euler, Heun, DPMpp, …) and keeps its order.
        steps, grid: the grid of a table, uniform in time by default. RK45 reads its two ends only.
        trace: "hutchinson" estimates the divergence without bias as vᵀJv, at one more backward pass an evaluation;
            "exact" takes one for each dimension.
        probes: Rademacher vectors v a sample, fixed along the path and addressed like all noise by (seed, sample).
        seed: as in :func:`sample`.

    Returns:
        (B,) nats.

    Raises:
        InputError: for a flow map, a shape that does not fit, a stochastic solver, or a guide under which the estimate is not smooth.
    """
    check_flow(denoise, "Likelihood")
    if trace not in ("hutchinson", "exact"):
        raise unknown("trace", trace, ("hutchinson", "exact"))
    if tuple(x.shape[1:]) != tuple(denoise.shape) or not x.is_floating_point():
        raise InputError(
            f"x holds {x.dtype} samples of shape {tuple(x.shape[1:])}, the model's are floats of {denoise.shape}"
        )
    if len(x) == 0:
        raise InputError("the batch is empty: x has length 0, so there is no density to integrate")
    if probes < 1:
        raise InputError(f"probes is at least 1: got {probes}")
    _check_guides(denoise)
    if (cond := as_cond(cond)) is not None:
        cond.check(denoise.conditions)
        cond = cond.expand(len(x)).to(denoise.device)
    solver = RK45() if solver is None else named(solver)
    whole = grids.named("time" if grid is None else grid)
    if whole.end is None:
        whole = dataclasses.replace(whole, end=data_point(denoise.schedule).logsnr)  # pyright: ignore[reportArgumentType]
    points = outward(denoise.schedule, whole, steps)
    data, noise, dims = points[0], points[-1], math.prod(denoise.shape)
    x = data.alpha * x.to(denoise.device, torch.promote_types(x.dtype, torch.float32))
    vectors = None
    if trace == "hutchinson":
        tape = Tape(sample_seeds(seed, len(x)))
        vectors = [tape.draw("probe", k, denoise.shape).sign().to(x) for k in range(probes)]
    field = _Divergence(denoise, cond, vectors)
    if isinstance(solver, RK45):
        x, gain = _adaptive(field, solver, data, noise, x)
    elif isinstance(solver, TableSolver):
        plan = solver.plan(denoise.schedule, turned(solver, denoise.schedule, points))
        x, gain = _table(field, plan, x)
    else:
        raise InputError(f"log_prob integrates with RK45 or a deterministic table such as Heun(): got {solver}")
    prior = -0.5 * (x / noise.sigma).flatten(1).square().sum(1) - dims * math.log(noise.sigma * math.sqrt(2 * math.pi))
    return prior + gain + dims * math.log(data.alpha)


def bits_per_dimension(log_prob: Tensor, shape: tuple[int, ...], levels: int = 256) -> Tensor:
    """``−log p/(d·log 2) + log2(levels/2)`` of dequantised data in [−1, 1]: +7 for 8 bits.

    Its mean over dequantisations bounds the discrete code length from above (Theis et al. 2016).

    Args:
        log_prob: nats, any shape.
        shape: of one sample.
        levels: of each value before dequantisation.
    """
    return -log_prob / (math.prod(shape) * math.log(2.0)) + math.log2(levels / 2)


def dequantise(images: Tensor, seed: Seeds = 0, levels: int = 256) -> Tensor:
    """Level k = 0 … levels−1 of each value in [−1, 1] becomes ``2(k + u)/levels − 1`` with u uniform in [0, 1) (Theis et al. 2016).

    Args:
        images: (B, …) in [−1, 1], on ``levels`` equidistant levels that include both ends.
        seed: addresses the draws, as in :func:`sample`.

    Returns:
        (B, …) in [−1, 1).
    """
    k = ((images + 1.0) * (0.5 * (levels - 1))).round()
    normal = Tape(sample_seeds(seed, len(images)), torch.float64).draw("dequantise", 0, images.shape[1:])
    u = torch.special.ndtr(normal).to(images)
    return (k + u) * (2.0 / levels) - 1.0


class _Divergence:
    """Prediction and trace of its Jacobian, ``(x, point, pair) -> y (B, …), tr ∂y/∂x (B,)``."""

    def __init__(self, denoise: Denoiser, cond: Cond | None, vectors: list[Tensor] | None) -> None:
        self.denoise, self.cond, self.vectors = denoise, cond, vectors

    def __call__(self, x: Tensor, point: Point, pair: Pair) -> tuple[Tensor, Tensor]:
        keep = torch.is_grad_enabled()
        with torch.enable_grad():
            x = x if keep and x.requires_grad else x.detach().requires_grad_()
            y = self.denoise(x, point, self.cond).linear(*pair)
            trace = self._exact(y, x, keep) if self.vectors is None else self._estimate(y, x, keep, self.vectors)
        return (y, trace) if keep else (y.detach(), trace)

    def _estimate(self, y: Tensor, x: Tensor, keep: bool, vectors: list[Tensor]) -> Tensor:
        total = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        for k, v in enumerate(vectors):
            more = keep or k + 1 < len(vectors)
            (row,) = torch.autograd.grad(y, x, v, retain_graph=more, create_graph=keep)
            total = total + (row * v).flatten(1).sum(1)
        return total / len(vectors)

    def _exact(self, y: Tensor, x: Tensor, keep: bool) -> Tensor:
        total, flat = torch.zeros(len(x), dtype=x.dtype, device=x.device), y.flatten(1)
        dims = flat.shape[1]
        for i in range(
            dims
        ):  # one at a time: batched gradients (vmap) fail on what networks do, pixel_unshuffle among others
            more = keep or i + 1 < dims
            (row,) = torch.autograd.grad(flat[:, i].sum(), x, retain_graph=more, create_graph=keep)
            total = total + row.flatten(1)[:, i]
        return total


def density_rows(plan: Plan) -> list[tuple[float, tuple[float, ...]]]:
    """The second row of coefficients of every step, (log c, the weights ``w_j·M_j/M_u`` of the traces).

    Raises:
        InputError: for a step that is not of the form ``d(x/M) = y dμ``, or that reaches a point where M is zero.
    """
    rows: list[tuple[float, tuple[float, ...]]] = []
    seen: list[HostPoint] = []
    at = plan.start
    for step in plan.steps:
        p, q = step.row.pair
        scale, new = q * at.alpha - p * at.sigma, q * step.to.alpha - p * step.to.sigma
        if scale == 0.0 or new == 0.0 or not math.isclose(step.row.c, new / scale, rel_tol=1e-9):
            raise InputError(
                f"the step from logsnr {2 * at.lam:.4g} to {2 * step.to.lam:.4g} in {p:g}·x0 + {q:g}·eps has no log-density: "
                "use a solver in the straight variable, such as Heun('straight') or RK45(), or a grid that starts at a finite logsnr"
            )
        seen.insert(0, step.row.point)
        weights = [w * (q * node.alpha - p * node.sigma) / new for w, node in zip(step.row.w, seen, strict=False)]
        rows.append((math.log(step.row.c), tuple(weights)))
        at = step.to
    return rows


def _table(field: _Divergence, plan: Plan, x: Tensor) -> tuple[Tensor, Tensor]:
    """x at the end and what log p lost on the way, (B,)."""
    dims, gain = x[0].numel(), torch.zeros(len(x), dtype=x.dtype, device=x.device)
    ys: Tensors = ()
    traces: Tensors = ()
    for step, (log_c, weights) in zip(plan.steps, density_rows(plan), strict=True):
        y, trace = field(x, step.row.point, step.row.pair)
        ys, traces = (y, *ys)[: plan.history], (trace, *traces)[: plan.history]
        x = combine((step.row.c, *step.row.w), (x, *ys[: len(step.row.w)]))
        gain = combine((1.0, *weights), (gain, *traces[: len(weights)])) + dims * log_c
    return x, gain


def _adaptive(field: _Divergence, solver: RK45, data: HostPoint, noise: HostPoint, x: Tensor) -> tuple[Tensor, Tensor]:
    def slopes(tau: Tensor, state: Tensors) -> Tensors:
        point = straight_point(field.denoise.schedule, tau, x)
        scale = point.alpha + point.sigma
        y, trace = field(state[0] * scale, point, STRAIGHT.pair)
        return y, trace * scale.flatten()

    first, last = STRAIGHT.scale(data), STRAIGHT.scale(noise)
    state = (x / first, torch.zeros(len(x), dtype=x.dtype, device=x.device))
    (z, gain), _, _ = integrate(slopes, data.tau, noise.tau, state, None, solver.rtol, solver.atol)
    return z * last, gain + x[0].numel() * math.log(last / first)


def _check_guides(denoise: Denoiser) -> None:
    for inner in reversed(chain(denoise)):
        if not inner.smooth:
            raise InputError(
                f"under {type(inner).__name__} the estimate has kinks or jumps, and its flow no density that an integration finds: "
                "take it off for log_prob"
            )
    if denoise.guidance != 1.0:
        warnings.warn(
            f"the model is guided, scale {denoise.guidance:g}: the density is that of the guided flow", stacklevel=3
        )
