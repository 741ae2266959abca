"""Inversion: codes against closed forms, round trips that close at the order of the solver, and the literature's shifted label."""

import math
from itertools import pairwise

import pytest
import torch

from reverie.core.condition import Cond
from reverie.core.denoiser import NetDenoiser
from reverie.core.errors import InputError
from reverie.core.exact import Gaussian, GaussianMixture
from reverie.core.schedules import VE, VP, Cosine, Flow, Point
from reverie.guide import cfg
from reverie.solve import DDIM, DDPM, RK45, DPMpp, Heun, ShiftedDDIM, grids, invert, plain, round_trip, sample
from reverie.solve.invert import END, outward

F64 = torch.float64
PATHS = [VP(), Cosine(), Flow(), VE()]


def mixture() -> GaussianMixture:
    covariances = [[[0.09, 0.0], [0.0, 0.09]], [[0.2, 0.1], [0.1, 0.15]]]
    means = torch.tensor([[-1.0, 0.5], [0.8, -0.4]], dtype=F64)
    return GaussianMixture(
        torch.tensor([0.3, 0.7], dtype=F64), means, torch.tensor(covariances, dtype=F64), labels=[0, 1]
    )


@pytest.mark.parametrize("schedule", PATHS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("solver", [None, RK45(1e-7, 1e-7)], ids=["heun", "rk45"])
def test_the_code_of_a_gaussian(schedule, solver):
    """The map is linear: the code is α₁·m + s₁·(α_ε·(x − m))/s_ε with s² = α²·std² + σ²."""
    mean, std = torch.tensor([0.4, -0.2], dtype=F64), 0.5
    denoise = Gaussian(mean, std**2 * torch.eye(2, dtype=F64)).denoiser(schedule)
    x = mean + std * torch.randn(3, 2, dtype=F64)
    data, noise = schedule.at(min(END / 2, schedule.lam(0.0))), schedule.point(1.0)
    s, e = (math.hypot(p.alpha * std, p.sigma) for p in (data, noise))
    expected = noise.alpha * mean + e * data.alpha * (x - mean) / s
    code = invert(denoise, x, steps=100 if solver is None else 1, solver=solver)
    assert (code - expected).abs().max() < (3e-3 if solver is None else 1e-6) * noise.sigma
    assert (invert(denoise, x, steps=3, solver=DDIM()) - expected).abs().max() > 1e-2 * noise.sigma


@pytest.mark.parametrize("schedule", [VP(), Flow()], ids=lambda s: type(s).__name__)
def test_the_round_trip_closes_at_the_order_of_the_solver(schedule):
    data = mixture()
    x, denoise = data.sample(32), data.denoiser(schedule)
    for solver, order in ((DDIM(), 1), (Heun("straight"), 2), (Heun("eps"), 2), (DPMpp(), 2)):
        ends = grids.logsnr(start=-7.0, end=8.0)
        errors = [float(round_trip(denoise, x, steps=n, solver=solver, grid=ends).error.mean()) for n in (25, 50, 100)]
        assert math.log2(errors[1] / errors[2]) > order - 0.2, (solver, errors)
        assert errors[2] < errors[1] < errors[0]
    trip = round_trip(denoise, x, steps=50)
    assert trip.error.shape == (32,) and trip.reconstruction.shape == x.shape
    assert torch.allclose(trip.error, (trip.reconstruction - x).square().mean(1).sqrt())
    assert torch.equal(trip.reconstruction, sample(denoise, x=invert(denoise, x), solver=Heun("straight"), steps=50))
    # a code that is not the image's own does not come back to it
    other = sample(denoise, x=invert(denoise, x).roll(1, 0), solver=Heun("straight"), steps=50)
    assert (other - x).square().mean().sqrt() > 10 * trip.error.mean()


def test_codes_of_data_are_standard_noise():
    data, schedule = mixture(), VP()
    code = invert(data.denoiser(schedule), data.sample(4000), steps=30)
    assert code.mean(0).abs().max() < 0.05 and (torch.cov(code.T) - torch.eye(2)).abs().max() < 0.06


def test_where_inversion_starts():
    flow, ve = Flow(), VE()
    assert outward(flow, grids.time(), 4)[0].logsnr == pytest.approx(END)
    assert outward(flow, grids.time(end=5.0), 4)[0].logsnr == pytest.approx(5.0)
    points = outward(ve, grids.logsnr(), 5)  # the grid's last finite node is where the path stops: no step of no length
    assert points[0].sigma == pytest.approx(0.01) and len(points) == 5
    assert all(a.lam - b.lam > 0.1 for a, b in pairwise(points))


def test_conditions_guidance_and_refusals():
    data = mixture()
    denoise, x, cond = data.denoiser(VP()), data.means.clone(), Cond(label=[0, 1])
    own = invert(denoise, x, cond=cond)
    assert (own - invert(denoise, x, cond=Cond(label=[1, 0]))).abs().max() > 0.5
    assert (own[1:] - invert(denoise, x[1:], cond=cond.index([1]))).abs().max() < 1e-12
    strong = sample(cfg(denoise, 4.0), x=own, cond=cond, solver=Heun("straight"), steps=50)
    weak = sample(denoise, x=own, cond=cond, solver=Heun("straight"), steps=50)
    assert (weak - x).abs().max() < 0.02 < (strong - x).abs().max()
    for solver in (DDPM(), DDIM(eta=1.0)):
        with pytest.raises(InputError, match="draws noise"):
            invert(denoise, x, solver=solver)
    with pytest.raises(InputError, match="own path"):
        invert(denoise.under(Flow()), x, solver=ShiftedDDIM())
    with pytest.raises(InputError, match="shape"):
        invert(denoise, torch.zeros(1, 3, dtype=F64))
    with pytest.raises(InputError, match="no point with more noise"):
        outward(VP(), grids.time(start=14.0), 1)


class Exact(torch.nn.Module):
    """A network that knows ε of N(0, s²) at the time it is told, like a trained one: the label decides, not the state."""

    def __init__(self, schedule, std: float = 0.5) -> None:
        super().__init__()
        self.schedule, self.std, self.conditions, self.asked = schedule, std, {}, []

    def forward(self, x, time, cond=None):
        self.asked.append(float(time))
        alpha, sigma = self.schedule.alpha(time), self.schedule.sigma(time)
        return sigma / (alpha**2 * self.std**2 + sigma**2) * x


def test_the_shifted_label():
    schedule = VP()
    net = Exact(schedule)
    denoise = NetDenoiser(net, schedule, "eps", shape=(1, 2, 2))
    x = 0.5 * torch.randn(2, 1, 2, 2, dtype=F64)
    points = outward(schedule, grids.time(), 10)
    code = invert(denoise, x, steps=10, solver=ShiftedDDIM(), grid=grids.time())
    assert net.asked == pytest.approx([p.t for p in points[1:]])
    net.asked.clear()
    plain_code = invert(denoise, x, steps=10, solver=DDIM(), grid=grids.time())
    assert net.asked == pytest.approx([p.t for p in points[:-1]])
    state = points[0].alpha * x
    for at, to in pairwise(points):
        eps = net(state, torch.tensor(to.t, dtype=F64))
        state = to.alpha * (state - at.sigma * eps) / at.alpha + to.sigma * eps
    assert (code - state).abs().max() < 1e-12 and (code - plain_code).abs().max() > 1e-2
    # the decoding move asks at the same label: the round trip is closer than plain DDIM's, and both close at order 1
    shifted, plain_ = (round_trip(denoise, x, steps=50, solver=s).error.mean() for s in (ShiftedDDIM(), DDIM()))
    assert shifted < plain_
    ratio = round_trip(denoise, x, steps=25, solver=ShiftedDDIM()).error.mean() / shifted
    assert 1.6 < float(ratio) < 2.6


@pytest.mark.parametrize("kind", ["eps", "v", "x0"])
def test_shifted_moves_agree_with_diffusers(kind):
    diffusers = pytest.importorskip("diffusers")
    name = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}[kind]
    scheduler = diffusers.DDIMInverseScheduler(clip_sample=False, prediction_type=name, set_alpha_to_one=False)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.set_timesteps(10)
    table = torch.cumprod(1.0 - torch.linspace(1e-4, 0.02, 1000), 0).double()

    def point(t: int):
        a = float(table[max(t, 0)])
        return Point(t / 1000, a**0.5, (1 - a) ** 0.5, 0.5 * math.log(a / (1 - a)), 0.0, 0.0)

    class Net(torch.nn.Module):
        conditions: dict = {}  # noqa: RUF012

        def forward(self, x, time, cond=None):
            return torch.sin(3 * x + 5 * time)

    denoise = NetDenoiser(Net(), VP(), kind, shape=(1, 2, 2))
    x = torch.randn(2, 1, 2, 2, dtype=F64)
    for t in scheduler.timesteps[1:].tolist():
        (step,) = ShiftedDDIM().plan(VP(), plain((point(t - 100), point(t)))).steps
        ours = denoise(x, step.row.point).linear(*step.row.pair) * step.row.w[0] + step.row.c * x
        theirs = scheduler.step(denoise.net(x, torch.tensor(t / 1000, dtype=F64)), t, x).prev_sample
        assert (ours - theirs).abs().max() < 1e-6
        x = ours
