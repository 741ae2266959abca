"""ΠGDM: guidance by a linear measurement (Song et al. 2023, "Pseudoinverse-guided diffusion models for inverse problems")."""

import math

from torch import Tensor

from reverie.core.call import Call
from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser
from reverie.core.errors import InputError
from reverie.core.estimate import Estimate
from reverie.core.schedules import Point
from reverie.core.tensors import Scalar, align
from reverie.guide.energy import Gradient
from reverie.guide.gradient import add_x0, by_branch, match, trace
from reverie.inverse.operators import Operator


class PiGDM(Gradient):
    """``score + η·Jᵀ·A*(r²AA* + σ_y²)⁻¹(y − A·x̂0)`` with J = ∂x̂0/∂x_t and r² = σ²/(α² + σ²) (eq. 7).

    The step size η of each sample is the largest up to 1 that takes the measurement of the estimate no further from y than it was. Where
    data are as the method assumes it is 1; where they vary more along some axis (all pixels of a picture together), the whole change would
    overshoot by as much, and more at each step.
    """

    def __init__(self, base: Denoiser, operator: Operator, y: Tensor, noise: float) -> None:
        super().__init__(base)
        self.operator, self.y, self.noise = operator, y, noise

    @property
    def smooth(self) -> bool:
        return False  # the step size η is cut to [0, 1]

    def __call__(self, x: Tensor, t: Point | Scalar, cond: Cond | None = None, call: Call | None = None) -> Estimate:
        point = self.point(t, x)
        estimate = trace(lambda x: self.base(x, point, cond, call), x)
        x0 = estimate.graph.x0

        def measured(x0: Tensor) -> Tensor:
            return by_branch(self.operator, call, self.space.decode(x0))

        seen = measured(x0)
        rest = match("the measurement", self.y, seen, call) - seen
        r2 = point.sigma**2 / (point.alpha**2 + point.sigma**2)
        each = [r2.reshape(-1, *(1,) * (rest.ndim - 1))] if isinstance(r2, Tensor) and r2.ndim else []
        pushed = by_branch(lambda rest, a=r2: self.operator.solve(rest, a, self.noise**2), call, rest, *each)
        if isinstance(point.alpha, float) and point.alpha == 0.0:
            # J·σ²/α is the covariance of x0 given x_t; where x_t says nothing of x0 it is r² = 1 by the assumption of the method
            change = estimate.vjp(seen, pushed, to=x0)
        else:
            change = point.sigma**2 / point.alpha * estimate.vjp(seen, pushed)
        if not estimate.again:
            seen, rest = seen.detach(), rest.detach()
        moved = measured(estimate.x0 + change) - seen
        return add_x0(estimate, align(step_size(moved, rest), change) * change)


def step_size(moved: Tensor, rest: Tensor) -> Tensor:
    """The largest η in [0, 1] with ‖rest − η·moved‖ ≤ ‖rest‖, (B,)."""
    moved, rest = moved.flatten(1), rest.flatten(1)
    return (2.0 * (moved * rest).sum(1) / moved.square().sum(1).clamp(min=1e-30)).clamp(0.0, 1.0)


def pigdm(denoise: Denoiser, operator: Operator, y: Tensor, noise: float = 0.0) -> Denoiser:
    """Guide by ``y = A(x) + noise``, taking p(x0 | x_t) to be N(x̂0, r²). Exact where that is, for data N(·, 1).

    A step costs one evaluation and one pass back, and is of the right size by itself: there is no scale to choose. In a latent space
    A acts on the decoded estimate, and r²AA* stands for its covariance.

    Args:
        denoise: any denoiser.
        operator: linear.
        y: (1 or B, …), what ``operator`` gave.
        noise: σ_y, the standard deviation of the noise in ``y``.

    Raises:
        InputError: for a noise that is negative or not finite; (when called) with gradients off, an operator without adjoint, or a ``y``
            of another size.
    """
    if not 0.0 <= noise < math.inf:
        raise InputError(
            f"noise is the standard deviation of the measurement's noise, at least 0 and finite: got {noise}"
        )
    return PiGDM(denoise, operator, y, noise)
