"""What a denoiser says of a noisy state, readable as any prediction."""

from collections.abc import Mapping

from torch import Tensor

from reverie.core.predictions import KINDS, Pair, convert
from reverie.core.schedules import Point
from reverie.core.tensors import Scalar, combine


class Estimate:
    """What a denoiser says of x_t: its output ``out = p·x0 + q·ε``, readable as any other prediction.

    Args:
        x_t: the noisy state, (B, …).
        out: the output, of the same shape.
        pair: (p, q) of the output at this point.
        point: where on the path x_t lies.
        variance: the model's own variance of the reverse step, where it has one.
        features: what was read inside of the network, by site (:mod:`reverie.nets.taps`).
    """

    __slots__ = ("features", "out", "pair", "point", "variance", "x_t")

    def __init__(
        self,
        x_t: Tensor,
        out: Tensor,
        pair: Pair,
        point: Point,
        variance: Tensor | None = None,
        features: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.x_t, self.out, self.pair, self.point, self.variance, self.features = (
            x_t,
            out,
            pair,
            point,
            variance,
            features,
        )

    def linear(self, p: Scalar, q: Scalar) -> Tensor:
        """``p·x0 + q·ε``."""
        return combine(self.coefficients(p, q), (self.x_t, self.out))

    def coefficients(self, p: Scalar, q: Scalar) -> Pair:
        """(a, b) with ``p·x0 + q·ε = a·x_t + b·out``."""
        return convert(self.pair, (p, q), self.point.alpha, self.point.sigma)

    def replace(self, out: Tensor) -> "Estimate":
        """The same with another output of the same kind: what a guide returns."""
        return Estimate(self.x_t, out, self.pair, self.point, self.variance, self.features)

    def with_features(self, features: Mapping[str, Tensor]) -> "Estimate":
        """The same with what was read on the way."""
        return Estimate(self.x_t, self.out, self.pair, self.point, self.variance, features)

    @property
    def x0(self) -> Tensor:
        """The estimate of clean data, E[x0 | x_t]."""
        return self.linear(1.0, 0.0)

    @property
    def eps(self) -> Tensor:
        """The estimate of the noise, E[ε | x_t]."""
        return self.linear(0.0, 1.0)

    @property
    def v(self) -> Tensor:
        """``α·ε − σ·x0`` (Salimans & Ho 2022)."""
        return self.linear(-self.point.sigma, self.point.alpha)

    @property
    def score(self) -> Tensor:
        """``∇ log p_t(x_t) = −ε/σ``."""
        return self.linear(*KINDS["score"](self.point))

    @property
    def velocity(self) -> Tensor:
        """``dx/dt = α′·x0 + σ′·ε``, the probability-flow drift in the path's own time."""
        return self.linear(self.point.d_alpha, self.point.d_sigma)
