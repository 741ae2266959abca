"""The vector-Jacobian product that energy and posterior methods share: one evaluation of the network, one pass back."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from reverie.core.call import Call, per_branch
from reverie.core.errors import InputError
from reverie.core.estimate import Estimate
from reverie.core.space import Space

Energy = Callable[[Tensor], Tensor]
"""Images (B, C, H, W) in [−1, 1] to one number a sample, (B,): small where an image is as wanted. Differentiable."""


class Traced(Estimate):
    """An estimate that knows how it came from x_t: ``graph`` is the same estimate, differentiable in x_t.

    Its own numbers carry no graph, so that a solver may keep them, unless x_t itself required a gradient: then everything is
    differentiable once more, for an outer guide or objective.
    """

    __slots__ = ("again", "graph")

    def __init__(self, graph: Estimate, again: bool) -> None:
        super().__init__(graph.x_t, graph.out, graph.pair, graph.point, graph.variance, graph.features)
        self.graph, self.again = graph, again
        if not again:
            self.cut()

    def cut(self) -> None:
        """Let go of the graph in the numbers."""
        self.again = False
        self.x_t, self.out = self.x_t.detach(), self.out.detach()
        self.variance = None if self.variance is None else self.variance.detach()

    def vjp(self, value: Tensor, cotangent: Tensor | None = None, to: Tensor | None = None) -> Tensor:
        """``(∂value/∂x_t)ᵀ·cotangent``, like x_t or what is given as ``to``; without cotangent the gradient of a (B,)."""
        if not value.requires_grad:
            raise InputError(
                "nothing leads from the estimate to this value by differentiable operations: "
                "a guide needs its gradient, so compute it in torch, without no_grad, detach or rounding"
            )
        cotangent = torch.ones_like(value) if cotangent is None else cotangent
        to = self.graph.x_t if to is None else to
        return torch.autograd.grad(value, to, cotangent, retain_graph=True, create_graph=self.again)[0]


def need_gradients(what: str) -> None:
    """Raise an :class:`InputError` where gradients are turned off."""
    if not torch.is_grad_enabled():
        raise InputError(
            f"{what} needs gradients, and they are off here: take torch.no_grad() or torch.inference_mode() away from around it. "
            "What it returns carries no graph, so memory does not grow with the steps"
        )


def trace(evaluate: Callable[[Tensor], Estimate], x: Tensor) -> Traced:
    """One evaluation at ``x``, with what is needed to differentiate it.

    Raises:
        InputError: where gradients are turned off.
    """
    need_gradients("a guide that differentiates the network")
    again = x.requires_grad
    if again:
        with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
            graph = evaluate(x)
    else:
        graph = evaluate(x.detach().requires_grad_())
    if isinstance(graph, Traced):  # a corrector around this one has traced the same evaluation: share it
        if not again:
            graph.cut()
        return graph
    return Traced(graph, again)


def measure(energy: Energy, space: Space, x0: Tensor, call: Call | None = None) -> Tensor:
    """The energy of an estimate in the diffused space, (B,); it sees the samples of one branch at a time.

    Raises:
        InputError: when it is not one finite number a sample.
    """

    def one(images: Tensor) -> Tensor:
        value = energy(images)
        if value.shape != (len(images),):
            raise InputError(
                f"an energy gives one number a sample, shape ({len(images)},): got {tuple(value.shape)}. "
                "Sum over everything but the batch"
            )
        return value

    value = by_branch(one, call, space.decode(x0))
    if not bool(torch.isfinite(value).all()):
        sick = [i for i, v in enumerate(value.tolist()) if v != v or v in (float("inf"), float("-inf"))]
        raise InputError(
            f"the energy is {value[sick[0]].item()} for sample {sick[0]} ({len(sick)} of {len(x0)}): keep it finite on any image, "
            "also out of [-1, 1] (clamp logarithms and roots), or lower the scale if it was finite at first"
        )
    return value


def by_branch(function: Callable[..., Tensor], call: Call | None, *values: Tensor) -> Tensor:
    """``function(*values)`` on the samples of one branch of a call at a time: it may hold something of each sample."""
    k = 1 if call is None else max(1, len(call.branches))
    return torch.cat([function(*parts) for parts in zip(*(value.chunk(k) for value in values), strict=True)])


def add_score(estimate: Estimate, score: Tensor) -> Estimate:
    """The estimate with ``score`` added to its own: ``x0 + (σ²/α)·score`` and ``ε − σ·score``, at the same x_t; α is not 0."""
    (p, q), point = estimate.pair, estimate.point
    return estimate.replace(estimate.out + (p * point.sigma**2 / point.alpha - q * point.sigma) * score)


def add_x0(estimate: Estimate, change: Tensor) -> Estimate:
    """The estimate with ``change`` added to its x0, and ε changed by −(α/σ)·change, at the same x_t."""
    (p, q), point = estimate.pair, estimate.point
    return estimate.replace(estimate.out + (p - q * point.alpha / point.sigma) * change)


def fit(name: str, value: Tensor, x: Tensor, call: Call | None = None) -> Tensor:
    """``value`` (1 or B, …) for the batch of ``x``, all branches of a call, on its device and in its dtype.

    Raises:
        InputError: when it is for another number of samples.
    """
    value = per_branch(value, len(x), call)
    if len(value) not in (1, len(x)):
        raise InputError(
            f"{name} is one for all samples or one a sample: got {len(value)} for a batch of {len(x)}. "
            "With one a sample, sample them in one batch (leave batch_size out)"
        )
    return value.to(x)


def match(name: str, value: Tensor, x: Tensor, call: Call | None = None) -> Tensor:
    """:func:`fit` for what is compared with ``x`` number by number.

    Raises:
        InputError: also when a sample of it has another shape, which broadcasting would hide.
    """
    if value.shape[1:] != x.shape[1:]:
        raise InputError(
            f"{name} is {tuple(value.shape[1:])} a sample and is compared with {tuple(x.shape[1:])}: give one of the same shape"
        )
    return fit(name, value, x, call)
