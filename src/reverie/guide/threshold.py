"""Dynamic and static thresholding (Saharia et al. 2022, section 2.3): strong guidance leaves the range of pixels; this brings x0 back into
it.

s is a high quantile of ``|x0|`` over the pixels of one sample, at least ``limit``; x0 is cut to [−s, s] and divided by s/limit. That makes
the whole picture paler, which is right for what guidance has driven too far, and wrong for pictures with much white whose estimates miss
it a little to both sides: these want s = ``limit``, which only cuts. It acts in x0.
"""

import math

from torch import Tensor

from reverie.core.call import Call
from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser, Wrapper
from reverie.core.errors import InputError
from reverie.core.estimate import Estimate
from reverie.core.schedules import Point
from reverie.core.tensors import Scalar
from reverie.guide.contrast import shifted


class Threshold(Wrapper):
    """See :func:`threshold`."""

    def __init__(self, base: Denoiser, quantile: float, limit: float) -> None:
        super().__init__(base)
        if not 0.0 <= quantile <= 1.0 or not 0.0 < limit < math.inf:
            raise InputError(f"quantile is in [0, 1] and limit above 0: got {quantile} and {limit}")
        self.quantile, self.limit = quantile, limit

    @property
    def smooth(self) -> bool:
        return False

    def __call__(self, x: Tensor, t: Point | Scalar, cond: Cond | None = None, call: Call | None = None) -> Estimate:
        estimate = self.base(x, t, cond, call)
        x0 = estimate.x0
        if self.quantile == 0.0:
            return shifted(estimate, x0.clamp(-self.limit, self.limit) - x0, "x0")
        size = x0.abs().flatten(1)
        s = size.kthvalue(math.ceil(self.quantile * size.shape[1]), dim=1).values.clamp(min=self.limit)
        s = s.reshape(-1, *(1,) * (x0.ndim - 1))
        return shifted(estimate, x0.clamp(-s, s) * (self.limit / s) - x0, "x0")


def threshold(denoise: Denoiser, quantile: float = 0.995, limit: float = 1.0) -> Denoiser:
    """Keep the clean estimate of any denoiser, guided or not, in the range of its data.

    Args:
        denoise: for example ``guide.cfg(model, 8.0)``.
        quantile: the share of a sample's pixels whose size sets s; 1 takes the largest, and 0 none: s is ``limit``.
        limit: the range of the data is [−limit, limit]; 1 for pixels, and for a latent space its own.

    Raises:
        InputError: for a quantile outside [0, 1] or a limit that is not positive.
    """
    return Threshold(denoise, quantile, limit)
