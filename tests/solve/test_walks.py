"""Walks, churn and correctors, against moments that are known: revisits need fresh noise."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from reverie.core.denoiser import Denoiser
from reverie.core.errors import InputError
from reverie.core.estimate import Estimate
from reverie.core.exact import Gaussian, GaussianMixture
from reverie.core.noise import Tape, sample_seeds
from reverie.core.paths import EDM
from reverie.core.schedules import VE, VP, Cosine, Flow
from reverie.core.space import Identity
from reverie.solve import (
    DDIM,
    GENIE,
    AnnealedLangevin,
    Churn,
    Corrector,
    DPMpp,
    DPMpp2S,
    Euler,
    Heun,
    Langevin,
    Stochastic,
    grids,
    iterate,
    plain,
    sample,
    walks,
)


@pytest.mark.parametrize("path", [VP(), Flow(), VE()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("solver", [DPMpp2S(), GENIE(), GENIE("eps"), Churn(0.0)], ids=repr)
def test_order_two(problem, path, solver) -> None:
    errors = problem.errors(solver, path, (24, 48))
    assert 1.85 <= problem.slopes(errors)[-1] <= 2.4, errors


def test_genie_is_the_second_derivative(problem) -> None:
    """One step against the Taylor series of a Gaussian's flow, x(τ) known in closed form."""
    std = 0.6
    denoise = Gaussian(torch.zeros(1).double(), torch.full((1, 1), std**2, dtype=torch.float64)).denoiser(Flow())
    at, to = Flow().point(0.7), Flow().point(0.62)
    x = torch.tensor([[1.3]], dtype=torch.float64)
    *_, step = iterate(denoise, x=x, solver=GENIE(), walk=plain((at, to)))

    def size(t: Tensor) -> Tensor:
        return torch.sqrt((1 - t) ** 2 * std**2 + t**2)

    t = torch.tensor(0.7, dtype=torch.float64)
    d1 = torch.func.jacfwd(size)(t)
    d2 = torch.func.jacfwd(torch.func.jacfwd(size))(t)
    expected = 1.3 * (1 + (-0.08 * d1 + 0.5 * 0.08**2 * d2) / size(t))
    assert step.x.item() == pytest.approx(expected.item(), rel=1e-12)
    assert step.evaluations == 2


def test_genie_starts_at_pure_noise_and_runs_a_network_with_attention() -> None:
    from torch import nn

    from reverie.core.denoiser import NetDenoiser

    class Net(nn.Module):
        def forward(self, x, time, cond):
            h = x.flatten(2)
            return nn.functional.scaled_dot_product_attention(h, h, h).reshape(x.shape) * time

    denoise = NetDenoiser(Net(), Flow(), "flow", shape=(2, 4, 4))
    steps = list(iterate(denoise, n=2, solver=GENIE(), steps=5))
    assert torch.isfinite(steps[-1].x).all() and steps[-1].evaluations == 9
    assert steps[-1].estimate.out.shape == (2, 2, 4, 4)


def test_two_stages_are_the_algorithm_of_the_paper(problem) -> None:
    path = VP()
    denoise = problem.mixture().denoiser(path)
    at, to = path.at(-0.5), path.at(0.4)
    x = torch.randn(4, 2, dtype=torch.float64)
    s, h = path.at(-0.05), 0.9
    middle = s.sigma / at.sigma * x + s.alpha * (1 - math.exp(-h / 2)) * denoise(x, at).x0
    expected = to.sigma / at.sigma * x + to.alpha * (1 - math.exp(-h)) * denoise(middle, s).x0
    *_, step = iterate(denoise, x=x, solver=DPMpp2S(), walk=plain((at, to)))
    torch.testing.assert_close(step.x, expected, rtol=1e-12, atol=1e-12)
    assert step.evaluations == 2


@pytest.mark.parametrize(("amount", "low", "high"), [(0.0, 0.249, 0.251), (10.0, 0.495, 0.505)])
def test_churn_forgets_a_wrong_start(problem, amount: float, low: float, high: float) -> None:
    """From half the right standard deviation the flow ends at half; churn repairs it (known: .250 and .500)."""
    path, std = EDM(), 0.5
    points = grids.karras()(path, 256)
    start = (0.0, 0.25 * (std**2 + points[0].sigma ** 2))
    _, variance = problem.moments(Churn(amount), path, plain(points), 0.0, std, start)
    assert low <= variance**0.5 <= high
    walk = walks.churn(path, points, amount)
    _, walked = problem.moments(Heun(), path, walk, 0.0, std, start)
    assert walked == pytest.approx(variance, rel=1e-9)


def test_churn_is_the_algorithm_of_the_paper(problem) -> None:
    path = EDM()
    points = grids.karras()(path, 12)
    amount, s_min, s_max, inflate = 5.0, 0.05, 50.0, 1.003
    x = expected = 80.0 * torch.randn(3, 2, dtype=torch.float64)
    denoise = problem.mixture().denoiser(path)
    draws = []

    class Record(problem.Basis):
        def draw(self, stream, number, shape, span=None):
            assert stream == "churn"
            draws.append(torch.randn(3, 2, dtype=torch.float64))
            return draws[-1]

    solver = Churn(amount, (-2 * math.log(s_max), -2 * math.log(s_min)), inflate)
    steps = list(iterate(denoise, x=x, solver=solver, walk=plain(points), tape=Record()))
    assert len(steps) == 12
    noise = iter(draws)
    for a, b in zip(points, points[1:], strict=False):  # noqa: RUF007
        gamma = min(amount / 12, math.sqrt(2) - 1) if s_min <= a.sigma <= s_max else 0.0
        hat = a.sigma * (1 + gamma)
        if gamma:
            expected = expected + math.sqrt(hat**2 - a.sigma**2) * inflate * next(noise)
        d = (expected - denoise(expected, path.at(-math.log(hat))).x0) / hat
        y = expected + (b.sigma - hat) * d
        if b.sigma:
            y = expected + (b.sigma - hat) * 0.5 * (d + (y - denoise(y, b).x0) / b.sigma)
        expected = y
    torch.testing.assert_close(steps[-1].x, expected, rtol=1e-8, atol=1e-8)


def test_ancestral_walks_of_first_order_are_ddim_and_of_second_keep_their_order(problem) -> None:
    path = VP()
    for eta in (0.4, 1.0):
        policy = Stochastic(eta, "ddim")
        points = grids.time()(path, 9)
        exact = problem.moments(DDIM(eta), path, plain(points), 0.3, 0.6)
        assert problem.moments(Euler(), path, walks.ancestral(path, points, policy), 0.3, 0.6) == pytest.approx(
            exact, rel=1e-9
        )
    end = path.at(2.0)
    truth = end.alpha**2 * 0.25 + end.sigma**2
    errors = []
    for n in (64, 128):
        walk = walks.ancestral(path, problem.between(path, -1.5, 2.0, n))
        errors.append(abs(problem.moments(Heun(), path, walk, 0.0, 0.5)[1] - truth))
    assert problem.slopes(errors)[-1] >= 1.85


def test_repaint_counts_as_the_paper() -> None:
    points = grids.time()(VP(), 250)
    walk = walks.repaint(points, 10, 10)
    assert sum(move.kind == "solve" for move in walk) == 2410 and walk[0].at is points[0] and walk[-1].to is points[-1]
    assert all(a.to is b.at for a, b in zip(walk, walk[1:], strict=False))  # noqa: RUF007
    assert Counter(move.kind for move in walk)["renoise"] == 9 * 24
    assert walks.repaint(points, 10, 1) == plain(points)
    with pytest.raises(InputError, match="at least 1"):
        walks.repaint(points, 0, 10)


def test_restart_visits_its_interval(problem) -> None:
    path = EDM()
    points = grids.karras()(path, 18)
    walk = walks.restart(path, points, (-2.0, 4.0), steps=5, times=3)
    assert sum(m.kind == "renoise" for m in walk) == 3 and sum(m.kind == "solve" for m in walk) == 18 + 15
    assert all(a.to is b.at or a.to == b.at for a, b in zip(walk, walk[1:], strict=False))  # noqa: RUF007
    back = next(m for m in walk if m.kind == "renoise")
    assert back.to.logsnr == -2.0 and back.at.logsnr >= 4.0
    start = (0.0, 0.25 * (0.25 + 80.0**2))
    without = problem.moments(Heun(), path, plain(points), 0.0, 0.5, start)[1] ** 0.5
    with_it = problem.moments(Heun(), path, walk, 0.0, 0.5, start)[1] ** 0.5
    assert abs(with_it - 0.5) < 0.25 * abs(without - 0.5)
    with pytest.raises(InputError, match="no finite point"):
        walks.restart(path, points, (-2.0, 40.0), 5)


def test_sample_takes_a_walk(problem) -> None:
    denoise = problem.mixture().denoiser(VP())
    points = grids.time()(VP(), 6)
    plainly = sample(denoise, n=3, solver=Heun(), grid=grids.time(), steps=6)
    torch.testing.assert_close(sample(denoise, n=3, solver=Heun(), walk=plain(points)), plainly)
    walk = walks.repaint(points, 2, 2)
    a, b = sample(denoise, n=3, walk=walk, batch_size=2), sample(denoise, n=3, walk=walk)
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


class Known(Corrector):
    """RePaint's known region: after a move to u, x ← m·x + (1 − m)(α_u·x_ref + σ_u·z)."""

    stream = "known"

    def __init__(self, solver, reference: Tensor, mask: Tensor) -> None:
        self.solver, self.reference, self.mask = solver, reference, mask

    def correct(self, denoise, x_t, estimate, x, at, to, noise):
        assert estimate.point is at and x_t is estimate.x_t
        return self.mask * x + (1 - self.mask) * (to.alpha * self.reference + to.sigma * noise[0])


class Responses:
    """Exact moments without Monte Carlo: row k of the batch is the response to source k, so that a draw is a unit row."""

    def __init__(self, rows: int, repeat: bool) -> None:
        self.rows, self.repeat, self.used, self.seen = rows, repeat, 3, {}

    def draw(self, stream, number, shape, span=None) -> Tensor:
        address = (stream, span) if self.repeat else (stream, number)
        if address not in self.seen:
            self.seen[address] = self.used
            self.used += 2
        z = torch.zeros(self.rows, 2, dtype=torch.float64)
        z[self.seen[address], 0] = z[self.seen[address] + 1, 1] = 1.0
        return z


class Correlated(Denoiser):
    """N(0, Σ) in the plane, as one small matrix product."""

    def __init__(self, path, covariance: Tensor) -> None:
        self.schedule, self.covariance, self.shape = path, covariance, (2,)
        self.conditions, self.space = {}, Identity()

    def __call__(self, x, t, cond=None) -> Estimate:
        point = self.point(t, x)
        inner = point.alpha**2 * self.covariance + point.sigma**2 * torch.eye(2, dtype=torch.float64)
        gain = point.alpha * self.covariance @ torch.linalg.inv(inner)
        return Estimate(x, x @ gain.T, (1.0, 0.0), point)


def inpaint(walk, path, repeat: bool) -> tuple[Tensor, Tensor]:
    rho = 0.9
    denoise = Correlated(path, torch.tensor([[1.0, rho], [rho, 1.0]], dtype=torch.float64))
    rows = 3 + 2 * (2 * len(walk) + 2)
    x = torch.zeros(rows, 2, dtype=torch.float64)
    x[1, 0] = x[2, 1] = 1.0  # the initial noise; row 0 is the constant
    reference = torch.zeros(rows, 2, dtype=torch.float64)
    reference[0, 0] = 1.5
    mask = torch.tensor([0.0, 1.0], dtype=torch.float64)
    solver = Known(DDIM(1.0), reference, mask)
    *_, last = iterate(denoise, x=x, solver=solver, walk=walk, tape=Responses(rows, repeat))
    return last.x[0], last.x[1:].square().sum(0).sqrt()


def test_repaint_on_a_correlated_gaussian() -> None:
    """Known x₁ = 1.5, correlation .9: x₂ is N(1.35, .436²). Blending alone is far off; revisits with repeated draws get the mean and
    lose the spread."""
    path = VP()
    points = grids.time()(path, 100)
    blended, _ = inpaint(plain(points), path, False)
    mean, std = inpaint(walks.repaint(points, 10, 10), path, False)
    repeated_mean, repeated = inpaint(walks.repaint(points, 10, 10), path, True)
    assert mean[0] == 1.5 and std[0] == 0.0  # the known part, exactly
    assert blended[1].item() < 1.05
    assert mean[1].item() >= 1.22
    assert std[1].item() == pytest.approx(0.436, rel=0.05)
    assert repeated_mean[1].item() == pytest.approx(mean[1].item(), abs=0.02)
    assert abs(repeated[1].item() / 0.436 - 1.0) > 0.5


class Quick:
    """Fresh noise from one generator, for Monte Carlo where addresses do not matter."""

    def __init__(self, n: int) -> None:
        self.n, self.generator = n, torch.Generator().manual_seed(0)

    def draw(self, stream, number, shape, span=None) -> Tensor:
        return torch.randn(self.n, *shape, dtype=torch.float64, generator=self.generator)


def sliced(a: Tensor, b: Tensor) -> float:
    """Sliced Wasserstein-2 distance over 64 directions."""
    angles = torch.linspace(0, math.pi, 65, dtype=torch.float64)[:-1]
    directions = torch.stack([angles.cos(), angles.sin()])
    return ((a @ directions).sort(0).values - (b @ directions).sort(0).values).square().mean().sqrt().item()


def test_langevin_repairs_the_predictor(problem) -> None:
    path, n = VE(0.05, 10.0), 3000
    data = problem.mixture()
    denoise = data.denoiser(path)
    truth, other = (data.sample(n, torch.Generator().manual_seed(s)) for s in (1, 2))
    x = 10.0 * torch.randn(n, 2, dtype=torch.float64)
    points = grids.logsnr()(path, 6)
    distances = []
    for solver in (Euler(), Langevin(Euler(), steps=0), Langevin(Euler(), steps=5, snr=0.3)):
        *_, last = iterate(denoise, x=x, solver=solver, walk=plain(points), tape=Quick(n))
        distances.append(sliced(last.x, truth))
    floor = sliced(other, truth)
    assert distances[0] == pytest.approx(distances[1], rel=1e-12)
    assert distances[2] < 0.5 * distances[0], (distances, floor)


def test_langevin_is_the_formula_and_is_per_sample(problem) -> None:
    path, r = VP(), 0.2
    denoise = problem.mixture().denoiser(path)
    points = grids.time()(path, 5)[:3]
    x = torch.randn(3, 2, dtype=torch.float64)
    steps = list(iterate(denoise, x=x, solver=Langevin(Euler(), 1, r), walk=plain(points), tape=Quick(3)))
    before = list(iterate(denoise, x=x, solver=Euler(), walk=plain(points[:2])))[-1].x
    z, score = Quick(3).draw("langevin", 0, (2,)), denoise(before, points[1]).score
    e = 2 * (r * points[1].sigma) ** 2
    torch.testing.assert_close(steps[0].x, before + e * score + math.sqrt(2 * e) * z, rtol=1e-12, atol=1e-12)
    assert [s.evaluations for s in steps] == [2, 4]
    whole = sample(denoise, n=4, solver=Langevin(DPMpp(2), 2), steps=5)
    alone = sample(denoise, seed=[(0, 2)], solver=Langevin(DPMpp(2), 2), steps=5)
    torch.testing.assert_close(alone[0], whole[2], rtol=1e-4, atol=1e-5)


def test_langevin_finds_the_marginal_from_anywhere(problem) -> None:
    """On N(0, V) the moves at constant noise end at V/(1 − e/2V), the known bias of a step e, from half the right deviation."""
    path, steps, r = VE(0.05, 10.0), 200, 0.15
    at, to = path.point(0.6), path.point(0.59)
    x = torch.zeros(1, 2 + steps, dtype=torch.float64)
    x[0, 0] = 0.5 * (0.25 + at.sigma**2) ** 0.5
    denoise = problem.Linear(path, 0.0, 0.5, x.shape[1])
    *_, last = iterate(denoise, x=x, solver=Langevin(Heun(), steps, r), walk=plain((at, to)), tape=problem.Basis())
    v, e = 0.25 + to.sigma**2, 2 * (r * to.sigma) ** 2
    assert last.x.square().sum().item() == pytest.approx(v / (1 - e / (2 * v)), rel=1e-6)


def test_quadratic_and_arctan_grids(problem) -> None:
    assert np.ptp(np.diff([p.t**0.5 for p in grids.quadratic()(VP(), 7)])) < 1e-12
    for path in (VP(), Flow(), Cosine()):
        points = grids.arctan(0.7)(path, 9)
        angles = [math.atan2(p.sigma, 0.7 * p.alpha) for p in points]
        assert np.ptp(np.diff(angles)) < 1e-9 and points[-1].sigma == 0.0 and points[0].t == 1.0
    # N steps of DDIM on Gaussian data of that scale end at cos(Δθ)^N of the exact standard deviation: no other grid does better
    c, n = 0.7, 10
    std = [
        problem.moments(DDIM(), Flow(), plain(grid(Flow(), n)), 0.0, c)[1] ** 0.5
        for grid in (grids.arctan(c), grids.time())
    ]
    assert std[0] / c == pytest.approx(math.cos(math.pi / 2 / n) ** n, rel=1e-9) and std[1] < std[0]


@pytest.mark.parametrize("path", [VE(0.01, 1.0), VP(), Flow()], ids=lambda s: type(s).__name__)
def test_annealed_langevin_is_algorithm_1(problem, path):
    """Song & Ermon 2019, line by line in x/α with the score of p_σ, from the same noise."""
    data, levels, moves, rate = problem.mixture(), 5, 7, 0.2
    denoise, grid = data.denoiser(path), grids.logsnr(start=0.0)
    points = grid(path, levels)
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(4)).double()
    *_, last = iterate(denoise, x=x, solver=AnnealedLangevin(moves, rate), grid=grid, steps=levels, seed=6)
    tape, state, number = Tape(sample_seeds(6, 3)), x / points[0].alpha, 0
    smallest = points[-2].rho
    for point in points[:-1]:
        a = rate * smallest**2 * point.rho**2 / smallest**2
        for _ in range(moves):
            state = state.detach().requires_grad_()
            (score,) = torch.autograd.grad(data.marginal_log_prob(state, 1.0, point.rho).sum(), state)
            z, number = tape.draw("langevin", number, (2,)).double(), number + 1
            state = state + 0.5 * a * score + a**0.5 * z
    assert last.evaluations == levels * moves and last.index == levels - 1
    torch.testing.assert_close(last.x, state.detach(), rtol=1e-9, atol=1e-9)


def test_annealed_langevin_finds_the_weights_of_modes(problem):
    """Far modes of unequal weight: many levels bring their share of the samples to each, one level alone does not move them."""
    means = torch.tensor([[3.0], [-3.0]]).double()
    data = GaussianMixture(torch.tensor([0.8, 0.2]).double(), means, torch.full((2, 1, 1), 0.01).double())
    denoise = data.denoiser(VE(0.05, 8.0))
    end = sample(denoise, 200, solver=AnnealedLangevin(20), steps=16, grid=grids.logsnr(), seed=2)
    assert (end > 0).double().mean().item() == pytest.approx(0.8, abs=0.1)
    low = grids.logsnr(start=2 * VE().at(2.0).lam)
    alone = sample(denoise, x=torch.randn(200, 1).double(), solver=AnnealedLangevin(60), steps=1, grid=low, seed=2)
    assert (alone > 0).double().mean().item() == pytest.approx(0.5, abs=0.12)


def test_what_annealed_langevin_refuses(problem):
    for settings in ((0, 0.2), (5, 0.0), (5, 4.0)):
        with pytest.raises(InputError, match="annealed Langevin takes"):
            AnnealedLangevin(*settings)
    with pytest.raises(InputError, match="finite logsnr"):
        sample(problem.mixture().denoiser(Flow()), solver=AnnealedLangevin(2), grid=grids.time(), steps=3)
