"""DDPM's bound where it is known: unit Gaussian data under the linear table of 1,000 levels."""

import math

import numpy as np
import pytest
import torch

from reverie.core.denoiser import NetDenoiser, Wrapper
from reverie.core.errors import InputError
from reverie.core.estimate import Estimate
from reverie.core.exact import Gaussian
from reverie.core.schedules import VP, Point, Schedule
from reverie.solve import grids, variational_bound
from reverie.solve.bound import _decoder

F64 = torch.float64
ENTROPY = 0.5 * math.log(2 * math.pi * math.e)


class Table:
    """β from 10⁻⁴ to 0.02 in T levels, then clean data; the points carry their own coefficients."""

    start = end = None

    def __call__(self, schedule: Schedule, steps: int):
        a = np.cumprod(1.0 - np.linspace(1e-4, 0.02, steps))[::-1]
        points = [Point(0.5, float(v**0.5), float((1 - v) ** 0.5), 0.5 * math.log(v / (1 - v)), 0.0, 0.0) for v in a]
        return (*points, schedule.clean())


class Signs:
    """ε = ±1 in turn: with x0 = ±1 the four combinations integrate every quadratic form of (x0, ε) exactly."""

    def draw(self, stream, number, shape, span=None):
        return torch.tensor([[1.0, 1.0, -1.0, -1.0]], dtype=F64)


def unit():
    denoise = Gaussian(torch.zeros(4, dtype=F64), torch.eye(4, dtype=F64)).denoiser(VP())
    return denoise, torch.tensor([[1.0, -1.0, 1.0, -1.0]], dtype=F64)


def optimal(estimate: Estimate, at: Point, to: Point) -> torch.Tensor:
    """β̃ + c²·Var[x0 | x_t] with Var[x0 | x_t] = σ² for unit Gaussian data."""
    fresh = 1.0 - (at.alpha * to.sigma / (to.alpha * at.sigma)) ** 2
    return torch.tensor(fresh * to.sigma**2 + (to.alpha * fresh * at.sigma) ** 2, dtype=F64)


@pytest.mark.parametrize("variance, gap", [("small", 0.579), ("large", 0.114), (optimal, 0.0)])
def test_the_gap_to_the_entropy(variance, gap):
    denoise, x = unit()
    bound = variational_bound(denoise, x, grid=Table(), variance=variance, levels=None, tape=Signs())
    assert bound.steps.shape == (1, 999) and bound.prior.shape == bound.decoder.shape == (1,)
    # the prior's own term is α_T²/2 = 2·10⁻⁵
    assert float(bound.total) / 4 - ENTROPY == pytest.approx(gap, abs=6e-4 if gap else 5e-5)


def test_a_drawn_bound_agrees_with_the_exact_one_and_is_each_samples_own():
    _, signs = unit()
    wide = Gaussian(torch.zeros(2, dtype=F64), torch.eye(2, dtype=F64)).denoiser(VP())
    x = torch.randn(400, 2, dtype=F64)
    drawn = variational_bound(wide, x, steps=30, levels=None, seed=2)
    exact = variational_bound(unit()[0], signs, steps=30, levels=None, tape=Signs())
    mean, error = drawn.total.mean() / 2, drawn.total.std() / 2 / 20
    assert abs(float(mean - exact.total / 4)) < 3 * float(error)
    part = variational_bound(wide, x[7:9], steps=30, levels=None, seed=[(2, 7), (2, 8)])
    assert torch.allclose(part.total, drawn.total[7:9], atol=1e-12)


class Fraction(Wrapper):
    """Says that the variance lies at a constant fraction between the small and the large one."""

    def __init__(self, base, fraction: float) -> None:
        super().__init__(base)
        self.fraction = fraction

    def __call__(self, x, t, cond=None):
        e = self.base(x, t, cond)
        return Estimate(e.x_t, e.out, e.pair, e.point, torch.full_like(x, self.fraction))


def test_a_learned_variance_lies_between_the_two():
    denoise, x = unit()

    def terms(fraction, variance):
        return variational_bound(Fraction(denoise, fraction), x, steps=40, variance=variance, levels=None, tape=Signs())

    for fraction, name in ((0.0, "small"), (1.0, "large")):
        assert torch.allclose(terms(fraction, "learned").steps, terms(fraction, name).steps)
    assert torch.allclose(terms(0.0, "learned").total, terms(0.0, "small").total)
    # unit Gaussian data: on fine grids the optimum is the large one, at 40 steps it is close to it
    assert terms(0.9, "learned").total < terms(0.3, "learned").total
    with pytest.raises(InputError, match="learned its variance"):
        variational_bound(denoise, x, steps=4, variance="learned", tape=Signs())


def test_a_wrong_model_pays():
    """The excess of every term is its squared error in x0, weighted: twice the estimate costs more at each step."""
    _, x = unit()
    wrong = Gaussian(torch.zeros(4, dtype=F64), 4.0 * torch.eye(4, dtype=F64)).denoiser(VP())
    right = variational_bound(unit()[0], x, steps=50, levels=None, tape=Signs())
    other = variational_bound(wrong, x, steps=50, levels=None, tape=Signs())
    assert (other.steps > right.steps).all() and float((other.total - right.total) / 4) > 0.05


def test_the_discretised_decoder_is_a_distribution():
    levels = torch.arange(256, dtype=F64) / 127.5 - 1.0
    for mean, std in ((0.1, 0.01), (-0.999, 0.02), (1.3, 0.004), (0.0, 2.0)):
        nats = _decoder(levels, torch.full_like(levels, mean), torch.tensor(std**2, dtype=F64), 256)
        assert float(torch.exp(-nats).sum()) == pytest.approx(1.0, abs=1e-12)
        assert torch.isfinite(nats).all()
    # far bins keep their digits: −log of a Gaussian tail
    assert float(_decoder(levels[:1], torch.ones(1, dtype=F64), torch.tensor(1e-4, dtype=F64), 256)) == pytest.approx(
        0.5 * (199.607843) ** 2 + math.log(199.607843 * math.sqrt(2 * math.pi)), rel=1e-4
    )


def test_network_in_float32_and_refusals():
    class Zero(torch.nn.Module):
        conditions: dict = {}  # noqa: RUF012

        def forward(self, x, time, cond=None):
            return 0.0 * x

    denoise = NetDenoiser(Zero(), VP(), "v", shape=(1, 4, 4))
    x = torch.randint(0, 256, (3, 1, 4, 4)) / 127.5 - 1.0
    bound = variational_bound(denoise, x, steps=20)
    assert bound.total.dtype == torch.float32 and bound.steps.shape == (3, 19) and (bound.total > 0).all()
    with pytest.raises(InputError, match="ends at clean data"):
        variational_bound(denoise, x, grid=grids.time(end=8.0))
    with pytest.raises(InputError, match="at least 2 steps"):
        variational_bound(denoise, x, steps=1)
    with pytest.raises(InputError, match="unknown variance"):
        variational_bound(denoise, x, variance="medium")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="shape"):
        variational_bound(denoise, x[:, :, :2])
