"""Stock grids against the formulas of their papers, the schedulers of diffusers and scipy; by name; between given ends."""

import math
from typing import get_args

import numpy as np
import pytest
import torch
from scipy.stats import beta as beta_distribution

from reverie.core.denoiser import Denoiser
from reverie.core.errors import InputError
from reverie.core.exact import GaussianMixture
from reverie.core.names import GridName
from reverie.core.paths import Table
from reverie.core.schedules import VE, VP, Cosine, Flow
from reverie.solve import Heun, grids, invert, iterate, log_prob, plain, sample

NAMES = get_args(GridName)
STEPS = (1, 2, 3, 10, 31)


@pytest.mark.parametrize("a, b", [(0.6, 0.6), (0.5, 0.9), (2.0, 3.5), (1.0, 1.0), (4.0, 0.7), (3.0, 12.0)])
def test_beta_nodes_are_quantiles_by_scipy(a, b):
    for steps in STEPS:
        times = [p.t for p in grids.beta(a, b)(Flow(), steps)]
        expected = beta_distribution.ppf(np.linspace(1.0, 0.0, steps + 1), a, b)
        assert times == pytest.approx(expected.tolist(), rel=1e-9, abs=1e-12)
    middle = grids.beta(a, b, start=-3.0, end=4.0)(Flow(), 6)  # evenly of what lies between the ends
    shares = beta_distribution.cdf([p.t for p in middle], a, b)
    assert np.ptp(np.diff(shares)) < 1e-9 and middle[0].logsnr == -3.0 and middle[-1].logsnr == 4.0


@pytest.mark.parametrize("a, b", [(0.0, 1.0), (-1.0, 1.0), (1.0, math.nan), (math.inf, 1.0)])
def test_beta_of_no_distribution(a, b):
    with pytest.raises(InputError, match="positive"):
        grids.beta(a, b)


@pytest.mark.parametrize("steps", [2, 5, 20, 51])
def test_linear_quadratic_is_what_its_name_says(steps):
    """A line through the first half to the threshold, a parabola of the same slope there to the end: nothing else is."""
    way = 1.0 - np.array([p.t for p in grids.linear_quadratic(0.03)(Flow(), steps)])
    half, i = steps // 2, np.arange(steps + 1)
    assert way[: half + 1] == pytest.approx(0.03 * i[: half + 1] / half, abs=1e-12)
    parabola = np.linalg.solve(  # through the last point of the line with its slope, and through 1 at the end
        [[half**2, half, 1], [2 * half, 1, 0], [steps**2, steps, 1]], [0.03, 0.03 / half, 1.0]
    )
    assert way[half:] == pytest.approx(np.polyval(parabola, i[half:]), abs=1e-10)


@pytest.mark.parametrize("name", ["exponential", "karras"])
def test_noise_levels_of_diffusers(name):
    from diffusers import EulerDiscreteScheduler

    path, steps = Table.scaled_linear(), 12
    flags = {"use_exponential_sigmas": True} if name == "exponential" else {"use_karras_sigmas": True}
    scheduler = EulerDiscreteScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, **flags)
    scheduler.set_timesteps(steps)
    low = -2.0 * math.log(float(scheduler.sigmas[-2]))
    points = grids.named(name)(path, steps)
    assert points[-2].logsnr == pytest.approx(low, abs=1e-4)
    assert [p.rho for p in points] == pytest.approx(scheduler.sigmas.tolist(), rel=1e-4)


@pytest.mark.parametrize("steps", [2, 7, 20])
def test_times_of_diffusers(steps):
    """The three spacings of a table of 1,000: entry i lies at (i + 1)/1000."""
    from diffusers import EulerDiscreteScheduler

    for name, spacing in (("simple", "trailing"), ("normal", "linspace")):
        scheduler = EulerDiscreteScheduler(timestep_spacing=spacing)
        scheduler.set_timesteps(steps)
        times = [1000.0 * p.t - 1.0 for p in grids.named(name)(Table.linear(), steps)[:-1]]
        assert times == pytest.approx(scheduler.timesteps.tolist(), abs=0.51)
    fine = [p.t for p in grids.sgm_uniform()(Table.linear(), steps)]
    assert fine[:-1] == pytest.approx(np.linspace(1.0, 0.001, steps + 1)[:-1].tolist(), abs=1e-9) and fine[-1] == 0.0


@pytest.mark.parametrize("rho", [1.0, 2.0, 0.5])
def test_polyexponential_is_k_diffusions(rho):
    n, low, high = 9, 0.002, 80.0
    ramp = np.linspace(1.0, 0.0, n) ** rho
    expected = np.exp(ramp * (math.log(high) - math.log(low)) + math.log(low))
    assert [p.sigma for p in grids.polyexponential(rho)(VE(low, high), n)[:-1]] == pytest.approx(expected.tolist())


def test_kl_optimal_is_theorem_31():
    n, low, high = 9, 0.002, 80.0
    k = np.arange(n) / (n - 1)
    expected = np.tan((1 - k) * math.atan(high) + k * math.atan(low))
    assert [p.sigma for p in grids.kl_optimal()(VE(low, high), n)[:-1]] == pytest.approx(expected.tolist())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("schedule", [VP(), Cosine(), Flow(), VE(), Table.linear()], ids=lambda s: type(s).__name__)
def test_every_grid_falls_to_clean_data_and_between_ends(name, schedule):
    grid = grids.named(name)
    for steps in STEPS:
        points = grid(schedule, steps)
        lams = [p.lam for p in points]
        assert len(points) == steps + 1 and lams == sorted(lams) and len(set(lams)) == len(lams)
        assert points[-1].sigma == 0.0
    inner = type(grid)(start=-3.0, end=5.0)(schedule, 6)
    lams = [p.lam for p in inner]
    assert inner[0].logsnr == -3.0 and inner[-1].logsnr == 5.0 and lams == sorted(set(lams)) and len(lams) == 7


def model() -> Denoiser:
    means = torch.tensor([[1.0, -0.5], [-1.0, 0.3]]).double()
    return GaussianMixture(torch.ones(2).double(), means, torch.eye(2).double().expand(2, 2, 2) * 0.1).denoiser(Flow())


@pytest.mark.parametrize("name", NAMES)
def test_names_stand_for_grids_and_solvers(name):
    denoise, grid = model(), grids.named(name)
    run = {"n": 2, "steps": 5, "seed": 3}
    assert torch.equal(
        sample(denoise, solver="heun", grid=name, **run), sample(denoise, solver=Heun(), grid=grid, **run)
    )
    *_, a = iterate(denoise, solver="ddim", grid=name, **run)
    *_, b = iterate(denoise, solver="ddim", grid=grid, **run)
    assert torch.equal(a.x, b.x)
    x = torch.tensor([[0.3, -0.2]]).double()
    assert torch.equal(invert(denoise, x, 5, solver="heun", grid=name), invert(denoise, x, 5, solver=Heun(), grid=grid))


def test_unknown_names_and_things_that_are_none():
    denoise, x = model(), torch.zeros(1, 2).double()
    for run in (
        lambda **how: sample(denoise, steps=2, **how),
        lambda **how: list(iterate(denoise, steps=2, **how)),
        lambda **how: invert(denoise, x, 2, **how),
        lambda **how: log_prob(denoise, x, steps=2, **how),
    ):
        with pytest.raises(InputError, match=r"unknown grid 'karas'.*Did you mean 'karras'"):
            run(grid="karas")
        with pytest.raises(InputError, match=r"unknown solver 'huen'.*Did you mean 'heun'"):
            run(solver="huen")
        with pytest.raises(InputError, match="made by a call"):
            run(grid=grids.karras)
        with pytest.raises(InputError, match="made by a call"):
            run(solver=Heun)
        with pytest.raises(InputError, match="a grid is a name"):
            run(grid=7)


def test_the_default_between_given_ends():
    """``ends`` moves the grid that the run would have anyway, the default's too; the state comes and goes at them."""
    denoise, path = model(), Flow()
    ends = (-4.0, 7.0)
    start, end = path.at(-2.0), path.at(3.5)
    x = start.alpha * torch.tensor([[0.9, -0.4], [-1.1, 0.2]]).double() + start.sigma * torch.tensor(
        [[0.3, -0.8], [1.2, 0.5]]
    )
    for steps in (5, 12, 30):
        got = sample(denoise, x=x, steps=steps, ends=ends)
        *_, last = iterate(denoise, x=x, steps=steps, ends=ends)
        assert torch.equal(got, last.x) and last.to.logsnr == 7.0
    fine = sample(denoise, x=x, solver=Heun("straight"), walk=plain(grids.time(start=-4.0, end=7.0)(path, 400)))
    assert (got - fine).abs().max() < 2e-4
    assert (sample(denoise, x=x, steps=30) - fine).abs().max() > 1e-2  # as if x were at pure noise
    named = sample(denoise, x=x, steps=9, grid="karras", solver="heun", ends=ends)
    assert torch.equal(named, sample(denoise, x=x, steps=9, grid=grids.karras(start=-4.0, end=7.0), solver="heun"))
    assert end.lam == 3.5


def test_ends_that_are_none():
    denoise, x = model(), torch.zeros(1, 2).double()
    for ends in ((3.0, -3.0), (1.0, 1.0), (math.nan, 1.0)):
        with pytest.raises(InputError, match="ends are"):
            sample(denoise, x=x, steps=3, ends=ends)
    with pytest.raises(InputError, match="give one of them"):
        sample(denoise, x=x, steps=3, ends=(-3.0, 3.0), start=0.5)
