"""RK45 against scipy and a closed form, and a sample's independence of its batch."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from reverie.core.condition import Cond, Label
from reverie.core.denoiser import Denoiser, NetDenoiser
from reverie.core.errors import InputError, RunError
from reverie.core.estimate import Estimate
from reverie.core.exact import Gaussian, GaussianMixture
from reverie.core.predictions import KINDS
from reverie.core.schedules import VE, VP, Cosine, Flow
from reverie.core.space import Identity
from reverie.guide import cfg
from reverie.solve import RK45, grids, iterate, sample
from reverie.solve.plan import Move

from ..margin import apart

PATHS = [VP(), Cosine(), Flow(), VE()]
F64 = torch.float64


def mixture(dtype: torch.dtype = F64) -> GaussianMixture:
    covariances = [[[0.09, 0.0], [0.0, 0.09]], [[0.2, 0.1], [0.1, 0.15]]]
    means = torch.tensor([[-1.0, 0.5], [0.8, -0.4]], dtype=dtype)
    return GaussianMixture(
        torch.tensor([0.3, 0.7], dtype=dtype), means, torch.tensor(covariances, dtype=dtype), labels=[0, 1]
    )


class Counted(Denoiser):
    """Remembers the per-sample times it is asked for."""

    def __init__(self, base: Denoiser) -> None:
        self.base, self.times = base, []
        self.schedule, self.shape, self.conditions, self.space = base.schedule, base.shape, base.conditions, base.space

    def __call__(self, x, t, cond=None):
        self.times.append(t.t.flatten().clone() if isinstance(t.t, torch.Tensor) else torch.full((len(x),), t.t))
        return self.base(x, t, cond)


@pytest.mark.parametrize("schedule", PATHS, ids=lambda s: type(s).__name__)
def test_matches_scipy_between_finite_points(schedule):
    denoise, x = mixture().denoiser(schedule), torch.randn(2, 2, dtype=F64) * schedule.at(-2.0).sigma
    points = schedule.at(-2.0), schedule.at(3.0)

    def velocity(t, y):  # in the path's own time, another form of the ODE than ours
        return denoise(torch.from_numpy(y)[None], float(t)).velocity[0].numpy()

    expected = [
        solve_ivp(velocity, (points[0].t, points[1].t), row.numpy(), method="DOP853", rtol=1e-9, atol=1e-9).y[:, -1]
        for row in x
    ]
    grid = grids.logsnr(start=-4.0, end=6.0)
    got = sample(denoise, x=x, solver=RK45(1e-8, 1e-8), steps=1, grid=grid)
    assert np.abs(got.numpy() - np.array(expected)).max() < 3e-7
    loose = sample(denoise, x=x, solver=RK45(1e-2, 1e-2), steps=1, grid=grid)
    assert np.abs(loose.numpy() - np.array(expected)).max() > 1e-5  # the tolerance is what decides


@pytest.mark.parametrize("schedule", PATHS, ids=lambda s: type(s).__name__)
def test_whole_path_of_a_gaussian(schedule):
    """From pure noise to clean data: x = m + s·z exactly, up to what is left at √rtol and where the path stops."""
    mean, std = torch.tensor([0.5, -0.3], dtype=F64), 0.4
    denoise = Gaussian(mean, std**2 * torch.eye(2, dtype=F64)).denoiser(schedule)
    start = schedule.point(1.0)
    x = torch.randn(5, 2, dtype=F64) * start.sigma
    got = sample(denoise, x=x, solver=RK45(1e-8, 1e-8), steps=3)
    z = (x - start.alpha * mean) / math.sqrt(start.alpha**2 * std**2 + start.sigma**2)
    # the estimate of x0 at noise level ρ keeps 1/√(1 + ρ²/s²) of z
    rho = math.exp(-min(-0.5 * math.log(1e-8), schedule.lam(0.0)))
    assert (got - mean - std * z / math.sqrt(1 + (rho / std) ** 2)).abs().max() < 1e-6
    assert (got - mean - std * z).abs().max() < (1e-3 if isinstance(schedule, VE) else 1e-6)


def test_nodes_are_output_and_agree_with_a_direct_run():
    denoise, solver = mixture().denoiser(VP()), RK45(1e-9, 1e-9)
    x = torch.randn(2, 2, dtype=F64)
    nodes = [step.x for step in iterate(denoise, x=x, solver=solver, steps=4)]
    assert len(nodes) == 4
    assert (nodes[-1] - sample(denoise, x=x, solver=solver, steps=1)).abs().max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_a_sample_takes_the_same_steps_in_any_batch(dtype):
    denoise, solver = mixture(dtype).denoiser(VP()), RK45(1e-5, 1e-5)
    x = torch.randn(6, 2, dtype=dtype) * torch.tensor([[0.1], [1.0], [4.0], [1.0], [0.3], [9.0]], dtype=dtype)

    def run(rows):
        counted = Counted(denoise)
        *_, last = iterate(counted, x=x[rows], solver=solver, steps=2)
        return last.x, last.evaluations, torch.stack(counted.times)

    whole, spent, times = run(list(range(6)))
    assert spent.shape == (6,) and len(spent.unique()) > 1  # the batch is uneven, or this shows nothing
    assert len(times) >= spent.max()
    for rows in ([0], [2], [5], [4, 2], [5, 0, 1]):
        some, few, _ = run(rows)
        assert torch.equal(few, spent[rows])
        assert (some - whole[rows]).abs().max() <= (2e-7 if dtype == torch.float32 else 1e-14)


def test_evaluations_are_what_was_evaluated():
    counted = Counted(mixture().denoiser(Flow()))
    *_, last = iterate(counted, x=torch.randn(1, 2, dtype=F64), solver=RK45(), steps=2)
    assert int(last.evaluations) == len(counted.times)


def test_tighter_costs_more_and_errs_less():
    denoise, x = mixture().denoiser(Flow()), torch.randn(4, 2, dtype=F64)
    grid = grids.time(end=8.0)
    exact = sample(denoise, x=x, solver=RK45(1e-9, 1e-9), steps=1, grid=grid)
    errors, costs = [], []
    for tolerance in (1e-2, 1e-4, 1e-6):
        *_, last = iterate(denoise, x=x, solver=RK45(tolerance, tolerance), steps=1, grid=grid)
        errors.append(float((last.x - exact).abs().max()))
        costs.append(float(last.evaluations.double().mean()))
    assert errors[0] > 10 * errors[1] > 100 * errors[2] and costs[0] < costs[1] < costs[2]
    # order 5: a hundred times the accuracy for 100^(1/5) = 2.5 times the steps
    assert costs[2] / costs[1] < 3.2


def test_conditions_guidance_other_paths_and_revisits():
    data = mixture()
    guided = cfg(data.denoiser(VP()), 1.5)
    cond = Cond(label=[0, 1, 1])
    x = torch.randn(3, 2, dtype=F64)
    part = cfg(data.denoiser(VP()), 1.5, interval=(-2.0, 2.0))  # a kink, told apart by each sample's own time
    whole = sample(part, x=x, cond=cond, solver=RK45(1e-3, 1e-3), steps=1)
    assert (
        sample(part, x=x[1:2], cond=cond.index([1]), solver=RK45(1e-3, 1e-3), steps=1) - whole[1]
    ).abs().max() < 1e-12
    other = guided.under(Flow())
    point = Flow().at(VP().lam(1.0))
    scaled = x * (point.sigma / VP().sigma(1.0))
    again = sample(other, x=scaled, cond=cond, solver=RK45(), steps=1, grid=grids.time(start=2 * point.lam))
    assert (again - sample(guided, x=x, cond=cond, solver=RK45(), steps=1)).abs().max() < 1e-3

    a, b = VP().at(-2.0), VP().at(1.0)
    walk = (Move("solve", a, b), Move("renoise", b, a), Move("solve", a, b))
    visits = list(iterate(data.denoiser(VP()), x=x, solver=RK45(), walk=walk))
    assert len(visits) == 3 and apart(visits[2].x, visits[0].x) > 1e-2


def test_gradients_flow_through_accepted_steps():
    denoise = mixture().denoiser(Flow())
    x = torch.tensor([[0.3, -0.7]], dtype=F64, requires_grad=True)

    def run(x):
        return sample(denoise, x=x, solver=RK45(1e-8, 1e-8), steps=1, grid=grids.time(end=6.0))

    (slope,) = torch.autograd.grad(run(x)[0, 0], x)
    e = torch.tensor([[1e-4, 0.0]], dtype=F64)
    with torch.no_grad():
        expected = (run(x + e) - run(x - e))[0, 0] / 2e-4
    assert abs(float(slope[0, 0] - expected)) < 1e-5


class Constant(torch.nn.Module):
    def forward(self, x, time, cond=None):
        return torch.zeros_like(x)


class Broken(Denoiser):
    """NaN below t = ½."""

    def __init__(self) -> None:
        self.schedule, self.shape, self.conditions, self.space = Flow(), (1,), {"label": Label(2)}, Identity()

    def __call__(self, x, t, cond=None):
        point = self.point(t, x)
        return Estimate(
            x, torch.where(torch.as_tensor(point.t) < 0.5, math.nan, 0.0) * x, KINDS["straight"](point), point
        )


def test_says_what_is_wrong():
    with pytest.raises(InputError, match="tolerances"):
        RK45(rtol=0.0)
    eps = NetDenoiser(Constant(), Flow(), "eps", shape=(1, 2, 2))
    with pytest.raises(InputError, match="finite logsnr"):
        sample(eps, 1, solver=RK45())
    with pytest.raises(RunError, match="no step small enough"):
        sample(Broken(), 1, solver=RK45())
    with pytest.raises(InputError, match="clean data"):
        RK45().plan(Flow(), (Move("invert", Flow().clean(), Flow().at(0.0)),))
