"""DDPM, DDIM, Euler and Heun against closed forms: order, marginals, and each other."""

import math
from itertools import pairwise

import pytest
import torch

from reverie.core.errors import InputError
from reverie.core.exact import Gaussian
from reverie.core.paths import EDM, SubVP, Table
from reverie.core.schedules import VE, VP, Cosine, Flow, Schedule
from reverie.solve import DDIM, DDPM, Euler, Heun, grids, iterate, plain, sample

from ..margin import apart

PATHS = [VP(), Cosine(), Flow(), VE(), EDM(), SubVP(), Table.linear()]
paths = pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)


@paths
@pytest.mark.parametrize(
    ("solver", "order"),
    [(Euler(), 1), (DDIM(), 1), (Heun(), 2), (Heun("straight"), 2)],
    ids=["euler", "ddim", "heun", "heun straight"],
)
def test_order_of_convergence(problem, path: Schedule, solver, order: int) -> None:
    errors = problem.errors(solver, path, (64, 128))
    assert problem.slopes(errors)[-1] >= order - 0.15, errors
    assert problem.slopes(errors)[-1] <= order + 0.4, errors


@pytest.mark.parametrize("path", [VP(), Flow(), VE()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("solver", [Euler(), Heun(), Heun("straight")], ids=["euler", "heun", "heun straight"])
def test_from_the_true_end_of_the_path_the_error_falls(problem, path: Schedule, solver) -> None:
    """Start-up at pure noise: monotone, whatever the order there."""
    denoise = problem.mixture().denoiser(path)
    start, end = path.point(1.0), path.at(2.5)
    x = start.sigma * torch.randn(8, 2, dtype=torch.float64)
    exact = problem.flow(denoise, x, start, end)
    errors = []
    for n in (8, 16, 32):
        points = (start, *(path.point(float(t)) for t in torch.linspace(1, end.t, n + 1).double()[1:-1]), end)
        *_, last = iterate(denoise, x=x, solver=solver, walk=plain(points))
        errors.append((last.x - exact).square().mean().sqrt().item())
    assert all(a > b for a, b in pairwise(errors)), errors


def test_first_order_on_the_circle_is_known(problem) -> None:
    """Data N(0, c²) on an arctan grid: the standard deviation falls short of exact by cos(Δθ)^N."""
    c, n = 0.7, 12
    for path in (VP(), Flow(), VE(0.01, 20.0)):
        angles = torch.linspace(math.atan(5.0 / c), math.atan(0.05 / c), n + 1, dtype=torch.float64)
        points = tuple(path.at(-math.log(c * math.tan(a))) for a in angles.tolist())
        _, variance = problem.moments(DDIM(), path, plain(points), 0.0, c)
        exact = points[-1].alpha ** 2 * c**2 + points[-1].sigma ** 2
        step = (angles[0] - angles[1]).item()
        assert (variance / exact) ** 0.5 == pytest.approx(math.cos(step) ** n, rel=1e-12)


@paths
def test_small_variance_is_exact_for_point_masses(problem, path: Schedule) -> None:
    for points in (grids.time()(path, 7), grids.logsnr()(path, 5)):
        for i in range(2, len(points)):
            m, v = problem.moments(DDPM("small"), path, plain(points[:i]), 0.6, 0.0)
            assert v == pytest.approx(points[i - 1].sigma ** 2, rel=1e-11, abs=1e-13)
            assert m == pytest.approx(0.6 * points[i - 1].alpha, rel=1e-11)


def test_large_variance_is_exact_for_unit_gaussian_data(problem) -> None:
    for path in (VP(), Cosine(), Table.cosine(100)):
        for steps in (3, 10, 50):
            points = grids.time(end=6.0)(path, steps)
            _, large = problem.moments(DDPM("large"), path, plain(points[:-1]), 0.0, 1.0)
            _, small = problem.moments(DDPM("small"), path, plain(points[:-1]), 0.0, 1.0)
            assert large == pytest.approx(1.0, rel=1e-12)
            assert small < 1.0 - 1e-4


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_keeps_the_marginal_of_point_masses_at_any_eta(problem, eta: float) -> None:
    for path in (VP(), Flow()):
        points = grids.time()(path, 6)
        for i in (3, 6):
            _, v = problem.moments(DDIM(eta), path, plain(points[:i]), -0.3, 0.0)
            assert v == pytest.approx(points[i - 1].sigma ** 2, rel=1e-12)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_weak_order_of_ddim(problem, eta: float) -> None:
    for path in (VP(), Flow(), VE()):
        errors = problem.weak(DDIM(eta), path, (64, 128))
        assert problem.slopes(errors)[-1] == pytest.approx(1.0, abs=0.1)


@paths
def test_eta_one_is_ancestral_on_one_tape(problem, path: Schedule) -> None:
    denoise = problem.mixture().denoiser(path)
    x = path.prior_std() * torch.randn(4, 2, dtype=torch.float64)
    runs = [sample(denoise, x=x, solver=solver, steps=9, seed=3) for solver in (DDIM(1.0), DDPM("small"))]
    torch.testing.assert_close(*runs, rtol=1e-12, atol=1e-12)
    assert apart(sample(denoise, x=x, solver=DDIM(0.9), steps=9, seed=3), runs[0]) > 1e-2


@paths
def test_euler_is_ddim_and_ends_on_the_estimate(problem, path: Schedule) -> None:
    denoise = problem.mixture().denoiser(path)
    x = path.prior_std() * torch.randn(4, 2, dtype=torch.float64)
    runs = [list(iterate(denoise, x=x, solver=solver, steps=5)) for solver in (Euler(), DDIM())]
    torch.testing.assert_close(runs[0][-1].x, runs[1][-1].x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(runs[0][-1].x, runs[0][-1].estimate.x0, rtol=1e-12, atol=1e-12)


def test_euler_on_the_straight_path_is_euler_of_the_velocity(problem) -> None:
    denoise = problem.mixture().denoiser(Flow())
    x = torch.randn(3, 2, dtype=torch.float64)
    expected = x
    for t in torch.linspace(1, 0, 6).double()[:-1].tolist():
        expected = expected - 0.2 * denoise(expected, min(t, 1.0)).velocity
    torch.testing.assert_close(
        sample(denoise, x=x, solver=Euler(), grid=grids.time(), steps=5), expected, rtol=1e-6, atol=1e-6
    )


def test_heun_is_the_algorithm_of_the_paper() -> None:
    """Karras et al. 2022, algorithm 1, written out on σ with the Gaussian's own derivative."""
    path, std = VE(0.002, 80.0), 0.5
    denoise = Gaussian(torch.zeros(1).double(), torch.full((1, 1), std**2).double()).denoiser(path)
    points = grids.karras()(path, 9)
    sigma = [p.sigma for p in points]
    x = expected = 80.0 * torch.randn(5, 1, dtype=torch.float64)
    for a, b in pairwise(sigma):
        d = expected * a / (std**2 + a**2)
        y = expected + (b - a) * d
        if b > 0:
            y = expected + (b - a) * 0.5 * (d + y * b / (std**2 + b**2))
        expected = y
    got = list(iterate(denoise, x=x, solver=Heun(), grid=grids.karras(), steps=9))
    torch.testing.assert_close(got[-1].x, expected, rtol=1e-12, atol=1e-12)
    assert got[-1].evaluations == 2 * 9 - 1 and len(got) == 9


def test_a_network_of_noise_cannot_start_at_pure_noise(problem) -> None:
    """ε says nothing of x0 where α = 0: an error that says what to do, no epsilon."""
    from reverie.core.denoiser import NetDenoiser

    class Net(torch.nn.Module):
        def forward(self, x, time, cond):
            return 0.1 * x

    denoise = NetDenoiser(Net(), Cosine(), "eps", shape=(1, 2, 2))
    with pytest.raises(InputError, match="finite logsnr"):
        sample(denoise, n=1, solver=DDIM(), steps=3)
    assert torch.isfinite(sample(denoise, n=1, solver=DDIM(), steps=3, grid=grids.logsnr())).all()
