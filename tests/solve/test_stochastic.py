"""Stochastic solvers: exact marginals, weak order by moment recursion, one tape, and the two conventions of η."""

import math

import pytest
import torch
from torch import nn

from reverie.core.brownian import BrownianTape
from reverie.core.condition import Cond, Label
from reverie.core.denoiser import NetDenoiser
from reverie.core.errors import InputError
from reverie.core.estimate import Estimate
from reverie.core.noise import Tape, sample_seeds
from reverie.core.paths import EDM
from reverie.core.schedules import VE, VP, Cosine, Flow
from reverie.guide import cfg
from reverie.solve import DDIM, DDPM, DPMpp, EulerMaruyama, SDEDPMpp, Stochastic, grids, iterate, plain, sample

PATHS = [VP(), Flow(), VE(), EDM()]
paths = pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)


def test_both_conventions_are_a_share_of_the_noise() -> None:
    at, to = VP().point(0.6), VP().point(0.5)
    h = to.lam - at.lam
    for eta in (0.3, 1.0):
        keep, fresh = Stochastic(eta, "sde").mix(at, to)
        assert keep == pytest.approx(math.exp(-eta * h)) and fresh**2 == pytest.approx(1 - math.exp(-2 * eta * h))
        keep, fresh = Stochastic(eta, "ddim").mix(at, to)
        assert fresh**2 == pytest.approx(eta**2 * (1 - math.exp(-2 * h))) and keep**2 + fresh**2 == pytest.approx(1.0)
    assert Stochastic(1.0, "sde").mix(at, to) == pytest.approx(Stochastic(1.0, "ddim").mix(at, to), rel=1e-14)
    near = VP().point(0.6 - 1e-7)  # over a short move η of one convention is η² of the other
    assert Stochastic(0.5, "ddim").mix(at, near).fresh == pytest.approx(
        Stochastic(0.25, "sde").mix(at, near).fresh, rel=1e-5
    )
    assert Stochastic(0.0).mix(to, at) == (1.0, 0.0)
    with pytest.raises(InputError, match="invert with η = 0"):
        Stochastic(0.5).mix(to, at)
    with pytest.raises(InputError, match="at most 1"):
        Stochastic(1.5, "ddim")


@paths
def test_three_names_of_ancestral_sampling(problem, path) -> None:
    denoise = problem.mixture().denoiser(path)
    x = path.prior_std() * torch.randn(4, 2, dtype=torch.float64)
    first, *others = (
        sample(denoise, x=x, solver=s, steps=8, seed=5) for s in (DDIM(1.0), DDPM("small"), SDEDPMpp(1, 1.0))
    )
    for other in others:
        torch.testing.assert_close(other, first, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("eta", [0.5, 1.0])
@pytest.mark.parametrize(("order", "slope"), [(1, 1.0), (2, 2.0)])
@pytest.mark.parametrize("convention", ["sde", "ddim"])
@pytest.mark.parametrize("path", [VP(), Flow(), VE()], ids=lambda p: type(p).__name__)
def test_weak_order_of_sde_dpmpp(problem, path, eta, order, slope, convention) -> None:
    errors = problem.weak(SDEDPMpp(order, eta, convention), path, (64, 128))
    assert problem.slopes(errors)[-1] == pytest.approx(slope, abs=0.12), errors


def test_the_weights_are_those_of_the_paper() -> None:
    a, b, c = (VP().at(v) for v in (-0.5, 0.1, 0.9))
    for eta in (0.4, 1.0):
        row = SDEDPMpp(2, eta).rows(VP(), (a, b, c))[1].row
        h, r = c.lam - b.lam, (b.lam - a.lam) / (c.lam - b.lam)
        gain = c.alpha * (1 - math.exp(-(1 + eta) * h))
        assert row.c == pytest.approx(c.sigma / b.sigma * math.exp(-eta * h), rel=1e-12)
        assert row.w == pytest.approx((gain * (1 + 0.5 / r), -gain * 0.5 / r), rel=1e-12)
        assert row.s == pytest.approx(c.sigma * math.sqrt(1 - math.exp(-2 * eta * h)), rel=1e-12)


def test_without_noise_it_is_dpmpp(problem) -> None:
    denoise = problem.mixture().denoiser(VP())
    x = torch.randn(3, 2, dtype=torch.float64)
    got = sample(denoise, x=x, solver=SDEDPMpp(2, 0.0), steps=9)
    torch.testing.assert_close(got, sample(denoise, x=x, solver=DPMpp(2), steps=9), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 1.5])
@pytest.mark.parametrize("path", [VP(), Flow(), VE()], ids=lambda p: type(p).__name__)
def test_euler_maruyama_has_weak_order_one(problem, path, eta) -> None:
    errors = problem.weak(EulerMaruyama(eta), path, (256, 512), low=-1.0, high=1.0)
    assert problem.slopes(errors)[-1] == pytest.approx(1.0, abs=0.1), errors


def test_euler_maruyama_is_the_formula(problem) -> None:
    path, eta = VP(), 0.8
    at, to = path.point(0.5), path.point(0.45)
    denoise = problem.mixture().denoiser(path)
    x = torch.randn(5, 2, dtype=torch.float64)
    *_, step = iterate(denoise, x=x, solver=EulerMaruyama(eta), walk=plain((at, to)), seed=4)
    z = Tape(sample_seeds(4, 5)).draw("step", 0, (2,)).double()
    beta = 0.1 + 0.5 * 19.9
    score, dt = denoise(x, at).score, -0.05
    expected = x + (-0.5 * beta * x - 0.5 * (1 + eta**2) * beta * score) * dt + eta * (beta * 0.05) ** 0.5 * z
    torch.testing.assert_close(step.x, expected, rtol=1e-12, atol=1e-12)
    with pytest.raises(InputError, match="finite logsnr"):
        sample(problem.mixture().denoiser(Flow()), n=1, solver=EulerMaruyama(), steps=3)
    assert torch.isfinite(
        sample(problem.mixture().denoiser(Flow()), n=1, solver=EulerMaruyama(), steps=30, grid=grids.logsnr())
    ).all()


@paths
def test_any_solver_and_eta_ends_on_a_point_mass(problem, path) -> None:
    for solver in (SDEDPMpp(2, 0.5), SDEDPMpp(2, 1.0), SDEDPMpp(1, 0.3, "ddim"), EulerMaruyama(0.7)):
        m, v = problem.moments(solver, path, plain(grids.logsnr()(path, 60)), 0.7, 0.0)
        assert m == pytest.approx(0.7, abs=1e-9) and v == pytest.approx(0.0, abs=1e-9)


def test_a_coarse_and_a_fine_run_share_a_brownian_path(problem) -> None:
    """Halving N with the same path changes samples far less than new noise."""
    denoise = problem.mixture().denoiser(Cosine())
    x = torch.randn(12, 2, dtype=torch.float64)

    def run(steps: int, tape) -> torch.Tensor:
        return list(iterate(denoise, x=x, solver=SDEDPMpp(), steps=steps, grid=grids.logsnr(start=-8.0), tape=tape))[
            -1
        ].x

    def distance(a: torch.Tensor, b: torch.Tensor) -> float:
        return (a - b).square().sum(1).mean().sqrt().item()

    seeds = sample_seeds(0, 12)
    fine = run(128, BrownianTape(seeds))
    same = [distance(run(n, BrownianTape(seeds)), fine) for n in (16, 32, 64)]
    new = distance(run(64, BrownianTape(sample_seeds(1, 12))), fine)
    plain_tape = distance(run(64, Tape(seeds)), run(128, Tape(seeds)))
    assert same[2] < same[0] and same[2] < 0.2 * new and plain_tape > 0.5 * new


class Two(nn.Module):
    """Output and a place between the variances."""

    def __init__(self, place: float) -> None:
        super().__init__()
        self.place, self.conditions = place, {"label": Label(2)}
        self.gain = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def forward(self, x, time, cond):
        return torch.cat([self.gain * x, torch.full_like(x, self.place)], dim=1)


@pytest.mark.parametrize(("place", "fraction"), [(-1.0, 0.0), (1.0, 1.0), (0.2, 0.6)])
def test_learned_variance_interpolates_the_logarithms(place: float, fraction: float) -> None:
    denoise = NetDenoiser(Two(place), VP(), "eps", shape=(1, 2, 2), learned_variance=True)
    x = torch.randn(3, 1, 2, 2, dtype=torch.float64)
    at, to = VP().point(0.5), VP().point(0.4)
    assert denoise(x, at).out.shape == x.shape and denoise(x, at).variance is not None
    with torch.no_grad():
        step = next(iterate(denoise, x=x, solver=DDPM("learned"), walk=plain((at, to)), seed=2))
        z = Tape(sample_seeds(2, 3)).draw("step", 0, (1, 2, 2)).double()
        ratio = at.alpha / to.alpha
        single = at.sigma**2 - ratio**2 * to.sigma**2
        low, high = math.log(single * to.sigma**2 / at.sigma**2), math.log(single)
        std = math.exp(0.5 * (fraction * high + (1 - fraction) * low))
        x0 = (x - at.sigma * 0.3 * x) / at.alpha
        mean = ratio * to.sigma**2 / at.sigma**2 * x + to.alpha * single / at.sigma**2 * x0
        torch.testing.assert_close(step.x, mean + std * z, rtol=1e-10, atol=1e-10)
        for name, same in (("small", -1.0), ("large", 1.0)):
            if place == same:
                whole = [sample(denoise, x=x, solver=DDPM(v), steps=6) for v in ("learned", name)]
                torch.testing.assert_close(*whole, rtol=1e-10, atol=1e-10)
        guided = cfg(denoise, 2.0)(x, at, Cond(label=1))
        assert isinstance(guided, Estimate) and guided.variance is not None and guided.variance.shape == x.shape


def test_learned_variance_needs_one(problem) -> None:
    with pytest.raises(InputError, match="learned its variance"):
        sample(problem.mixture().denoiser(VP()), n=1, solver=DDPM("learned"), steps=3)


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match="orders 1 to 3"):
        SDEDPMpp(4)
    with pytest.raises(InputError, match="at least 0"):
        EulerMaruyama(-1.0)
    with pytest.raises(InputError, match="at most 1"):
        DDIM(1.2)
