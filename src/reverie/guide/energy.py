"""Energy guidance: sample from data tilted by an energy, ``p(x0)·e^(−scale·E(x0))``, as far as the estimate of x0 tells."""

from torch import Tensor

from reverie.core.call import Call
from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser, Wrapper
from reverie.core.estimate import Estimate
from reverie.core.schedules import Point
from reverie.core.tensors import Scalar
from reverie.guide.contrast import checked, strength
from reverie.guide.gradient import Energy, add_score, measure, trace


class Gradient(Wrapper):
    """A guide that differentiates what it guides, towards something that may be one a sample."""

    @property
    def together(self) -> bool:
        return True


class EnergyGuide(Gradient):
    """``score − scale·∇_{x_t} E(x̂0(x_t))`` (Yu et al. 2023, eq. 8; Bansal et al. 2023, eq. 6)."""

    def __init__(self, base: Denoiser, energy: Energy, scale: Scalar) -> None:
        super().__init__(base)
        self.energy, self.scale = energy, checked(scale)

    def __call__(self, x: Tensor, t: Point | Scalar, cond: Cond | None = None, call: Call | None = None) -> Estimate:
        point = self.point(t, x)
        if isinstance(point.alpha, float) and point.alpha == 0.0:
            return self.base(x, point, cond, call)
        estimate = trace(lambda x: self.base(x, point, cond, call), x)
        value = measure(self.energy, self.space, estimate.graph.x0, call)
        return add_score(estimate, -strength(self.scale, 2.0 * point.lam, x, call) * estimate.vjp(value))


def energy(denoise: Denoiser, energy: Energy, scale: Scalar = 1.0) -> Denoiser:
    """Guide by any differentiable energy on the estimate of clean data. Exact for linear energies of Gaussian data.

    A step costs one evaluation and one pass back. At pure noise (α = 0), where the estimate knows nothing of x_t, nothing is added. A
    large ``scale`` makes the flow stiff: take more steps, or :class:`~reverie.guide.freedom.FreeDoM`, whose moves can be of bounded size.

    Args:
        denoise: any denoiser; its space is crossed, the energy sees images.
        energy: images (B, C, H, W) in about [−1, 1] -> (B,); :mod:`reverie.guide.energies` has some.
        scale: of the energy; a number or one a sample, (B,).

    Raises:
        InputError: (when called) with gradients off, or for an energy that is not finite or not one number a sample.
    """
    return EnergyGuide(denoise, energy, scale)
