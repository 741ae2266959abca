"""Posterior methods against posteriors that are known: each is right where its paper says so, and wrong where it must be."""

import dataclasses
import math
import sys
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

import reverie as rv
from reverie.core.count import Count
from reverie.core.denoiser import Denoiser, counted
from reverie.core.errors import InputError
from reverie.core.exact import Gaussian, GaussianMixture
from reverie.core.schedules import VE, VP, Cosine, Flow, Schedule
from reverie.core.space import Space
from reverie.inverse.operators import Inpaint, Operator, Phase, SuperResolution
from reverie.inverse.reddiff import reddiff_loss
from reverie.inverse.repaint import RePaint
from reverie.solve import DDIM, DDPM, DPMpp, Euler, Heun, grids, plain, sample, walks

SHAPE = (1, 2, 2)
PATHS = {"vp": VP(), "cosine": Cosine(), "flow": Flow(), "ve": VE()}


class Draws:
    """Noise for many samples at once, antithetic: quick, and of mean zero."""

    def __init__(self, seeds: Sequence) -> None:
        self.n, self.random = len(seeds), torch.Generator().manual_seed(7)

    def draw(self, stream: str, number: int, shape: Sequence[int], span=None) -> Tensor:
        half = torch.randn((self.n + 1) // 2, *shape, dtype=torch.float64, generator=self.random)
        return torch.cat([half, -half])[: self.n]


class Matrix(Operator):
    """A dense matrix: the base class's conjugate gradients serve it."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix

    def __call__(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.matrix.to(x).T

    def adjoint(self, y: Tensor) -> Tensor:
        return (y @ self.matrix.to(y)).reshape(-1, *SHAPE)


H = torch.tensor([[1.0, 0.5, -0.3, 0.2], [0.1, -1.2, 0.4, 0.7]], dtype=torch.float64)
Y = torch.tensor([[1.0, -0.7]], dtype=torch.float64)


def posterior(covariance: Tensor, noise: float) -> tuple[Tensor, Tensor]:
    """Of x0 ~ N(0, covariance) given H·x0 + noise = Y."""
    gain = covariance @ H.T @ torch.linalg.inv(H @ covariance @ H.T + noise**2 * torch.eye(2, dtype=torch.float64))
    return gain @ Y[0], covariance - gain @ H @ covariance


def unit(schedule: Schedule):
    return Gaussian(torch.zeros(SHAPE, dtype=torch.float64), torch.eye(4, dtype=torch.float64)).denoiser(schedule)


def errors(x: Tensor, noise: float) -> tuple[float, float]:
    """Of the mean, and relative of the covariance."""
    mean, covariance = posterior(torch.eye(4, dtype=torch.float64), noise)
    flat = x.flatten(1)
    distance = (torch.cov(flat.T) - covariance).norm() / covariance.norm()
    return float((flat.mean(0) - mean).abs().max()), float(distance)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
@pytest.mark.parametrize("noise", [0.1, 0.3])
def test_pigdm_is_exact_on_a_unit_gaussian(path: Schedule, noise: float) -> None:
    """The guided estimate is the posterior mean E[x0 | x_t, y] itself, at every noise level, by formula and not by sampling."""
    guided = rv.inverse.pigdm(unit(path), Matrix(H), Y, noise)
    for t in (1.0, 0.8, 0.3, 0.05):
        point = path.point(t)
        x = 1.7 * torch.randn(5, *SHAPE, dtype=torch.float64)
        estimate = guided(x, point)
        precision = torch.eye(4, dtype=torch.float64) * (1 + (point.alpha / point.sigma) ** 2) + H.T @ H / noise**2
        right = (point.alpha / point.sigma**2 * x.flatten(1) + Y @ H / noise**2) @ torch.linalg.inv(precision)
        assert torch.allclose(estimate.x0.flatten(1), right, atol=1e-8), t
        assert torch.allclose(point.alpha * estimate.x0 + point.sigma * estimate.eps, x, atol=1e-8)


@pytest.mark.parametrize("noise", [0.0, 0.3, 1.0])
def test_pigdm_samples_the_posterior(noise: float) -> None:
    """The flow is affine here, so that noise of exact mean and covariance ends at the posterior's, but for the solver's error."""
    half = torch.linalg.qr(torch.randn(50, 4, dtype=torch.float64))[0] * 99**0.5
    x = (torch.cat([half, -half]) / 2**0.5).reshape(100, *SHAPE)
    x = sample(rv.inverse.pigdm(unit(Flow()), Matrix(H), Y, noise), x=x, solver=Heun("straight"), steps=40)
    mean, covariance = errors(x, noise)
    assert mean < 1e-9 and covariance < 3e-3, (mean, covariance)


def test_dps_does_not_sample_the_posterior() -> None:
    """No ζ serves every measurement: the ones that give the right spread at one noise level are far off at another."""
    worst = {}
    for zeta in (0.03, 0.1, 0.3, 1.0):
        solver = rv.inverse.dps(Matrix(H), Y, zeta, DDPM())
        x = sample(unit(VP()), 2000, solver=solver, steps=100, tape=Draws)
        worst[zeta] = max(errors(x, noise)[1] for noise in (0.1, 0.3, 1.0))
    assert min(worst.values()) > 0.1, worst


def test_dps_comes_near_the_measurement() -> None:
    solver = rv.inverse.dps(Matrix(H), Y, 0.3, DDPM())
    x = sample(unit(VP()), 300, solver=solver, steps=200, tape=Draws)
    plain = sample(unit(VP()), 300, solver=DDPM(), steps=200, tape=Draws)
    far, near = (rv.inverse.consistency(Matrix(H), Y, each).mean() for each in (plain, x))
    assert near < 0.7 * far


def correlated(schedule: Schedule):
    covariance = torch.tensor([[1.0, 0.9], [0.9, 1.0]], dtype=torch.float64)
    return Gaussian(torch.zeros(1, 1, 2, dtype=torch.float64), covariance).denoiser(schedule)


KNOWN = Inpaint(torch.tensor([[1, 0]]))
VALUE = torch.tensor([1.5, 0.0], dtype=torch.float64).reshape(1, 1, 1, 2)


def test_repaint_needs_time_travel() -> None:
    """x1 = 1.5 is known, E[x2 | x1] = 1.35: pasting alone reaches .92, walking each stretch ten times 1.28, of the right spread."""
    points = grids.time()(VP(), 100)
    found = {}
    for repeat in (1, 10):
        walk = walks.repaint(points, 10, repeat)
        x = sample(correlated(VP()), 1500, solver=RePaint(KNOWN, VALUE), walk=walk, tape=Draws).flatten(1)
        assert torch.equal(x[:, 0], torch.full((1500,), 1.5, dtype=torch.float64))  # bit for bit
        found[repeat] = float(x[:, 1].mean()), float(x[:, 1].std())
    assert found[1][0] < 1.05 and found[10][0] > 1.2
    assert found[10][1] == pytest.approx(math.sqrt(0.19), rel=0.1)


def test_repaint_counts_the_noise_of_the_measurement() -> None:
    """As long as it acts, the known pixel has exactly the marginal α·y + σ·z; then the measurement is let go."""
    solver = RePaint(KNOWN, VALUE, noise=0.5)
    path = VP()
    points = grids.time()(path, 40)
    last = max(i for i, p in enumerate(points) if solver.acts(p))
    assert points[last].sigma >= 0.5 * points[last].alpha > 0 and points[last + 1].sigma < 0.5 * points[last + 1].alpha
    y = VALUE + 0.5 * torch.cat([half := torch.randn(2000, 1, 1, 2, dtype=torch.float64), -half]) * KNOWN.mask
    x = sample(correlated(path), 4000, solver=RePaint(KNOWN, y, noise=0.5), walk=plain(points[: last + 1]), tape=Draws)
    assert float(x[..., 0].mean()) == pytest.approx(points[last].alpha * 1.5, abs=0.04)
    assert float(x[..., 0].std()) == pytest.approx(points[last].sigma, rel=0.06)


@pytest.mark.parametrize("path", [VP(), Flow(), VE()], ids=repr)
def test_reddiff_has_the_ridge_fixed_point(path: Schedule) -> None:
    """The mean gradient over times and noise vanishes at ``(HᵀH/m + λ·E[r²]/d)⁻¹Hᵀy/m``, to rounding, and nowhere else."""
    weight, points = 0.25, [path.point((i + 0.5) / 20) for i in range(20)]
    r2 = sum(p.sigma**2 / (p.alpha**2 + p.sigma**2) for p in points) / len(points)
    system = H.T @ H / 2 + weight * r2 * torch.eye(4, dtype=torch.float64) / 4
    ridge = torch.linalg.solve(system, H.T @ Y[0] / 2)

    def gradient(mu: Tensor) -> Tensor:
        mu = mu.reshape(1, *SHAPE).requires_grad_()
        noise = torch.randn(1, *SHAPE, dtype=torch.float64)
        each = [
            torch.autograd.grad(reddiff_loss(unit(path), Matrix(H), Y, mu, p, sign * noise, weight).sum(), mu)[0]
            for p in points
            for sign in (1.0, -1.0)
        ]
        return torch.stack(each).mean(0).flatten()

    assert gradient(ridge.clone()).abs().max() < 1e-10 * system.norm() * ridge.norm() + 1e-10
    assert gradient(1.1 * ridge).abs().max() > 1e-3
    least = torch.linalg.lstsq(H, Y[0]).solution
    assert gradient(least).abs().max() > 1e-3  # the measurement alone is not the answer


def test_reddiff_descends_to_it() -> None:
    x = rv.inverse.reddiff(unit(Flow()), Matrix(H), Y, n=1, steps=200, lr=0.03)
    r2 = sum(p.sigma**2 / (p.alpha**2 + p.sigma**2) for p in (Flow().point((i + 0.5) / 200) for i in range(200))) / 200
    system = H.T @ H / 2 + 0.25 * r2 * torch.eye(4, dtype=torch.float64) / 4
    ridge = torch.linalg.solve(system, H.T @ Y[0] / 2)
    assert (x.flatten() - ridge).norm() < 0.25 * ridge.norm()  # times end where the penalty is weak


def test_pigdm_does_not_overshoot_along_an_axis_of_large_variance(monkeypatch: pytest.MonkeyPatch) -> None:
    """All pixels together vary 900 times as much as the method assumes; with the whole change at each step it diverges."""
    d = 16
    covariance = torch.eye(d, dtype=torch.float64) + 899.0 * torch.ones(d, d, dtype=torch.float64) / d
    denoise = Gaussian(torch.zeros(1, 4, 4, dtype=torch.float64), covariance).denoiser(Flow())
    y = torch.full((1, 1, 2, 2), 3.0, dtype=torch.float64) + 0.1 * torch.arange(4.0).reshape(1, 1, 2, 2)
    operator = SuperResolution(2)

    def error() -> float:
        x = sample(rv.inverse.pigdm(denoise, operator, y), 32, solver=DDIM(1.0), steps=50, grid=grids.logistic())
        return float((operator(x) - y).abs().max())

    assert error() < 0.1
    monkeypatch.setattr(sys.modules["reverie.inverse.pigdm"], "step_size", lambda moved, rest: torch.ones(len(moved)))
    assert not error() < 10.0


METHODS = {"pigdm": 20, "dps": 150, "repaint": 40, "reddiff": 60, "dflow": 120}


def digits(schedule: Schedule):
    """Four fuzzy patterns of 8x8 as a mixture: images with something to restore."""
    random = torch.Generator().manual_seed(2)
    means = torch.where(torch.rand(4, 1, 8, 8, generator=random) > 0.5, 0.8, -0.8).double()
    covariance = 0.01 * torch.eye(64, dtype=torch.float64).expand(4, 64, 64)
    return GaussianMixture(torch.ones(4, dtype=torch.float64), means, covariance, labels=[0, 0, 1, 1]), schedule


def smooth() -> tuple[Denoiser, Tensor]:
    """Gaussian images of 8x8 whose pixels go with their neighbours, and three of them."""
    place = torch.stack(torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij"), -1).reshape(64, 2).double()
    covariance = 0.3 * torch.exp(-(torch.cdist(place, place) ** 2) / 8.0) + 1e-4 * torch.eye(64, dtype=torch.float64)
    data = Gaussian(torch.zeros(1, 8, 8, dtype=torch.float64), covariance)
    return data.denoiser(Flow()), data.sample(3, torch.Generator().manual_seed(3))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["super", "hole"])
def test_every_method_restores(method: str, name: str) -> None:
    operator = SuperResolution(2) if name == "super" else Inpaint(torch.arange(64).reshape(8, 8) % 3 > 0)
    denoise, truth = smooth()
    y = operator(truth)
    restored = rv.inverse.restore(denoise, operator, y, method, steps=METHODS[method])
    error = (restored.images - truth).square().mean().sqrt()
    guess = (operator.pinv(y) - truth).square().mean().sqrt()
    assert error < 0.8 * guess, (method, float(error), float(guess))
    assert torch.allclose(restored.consistency, rv.inverse.consistency(operator, y, restored.images))
    shuffled = rv.inverse.restore(denoise, operator, y.roll(1, 0), method, steps=METHODS[method])
    assert (shuffled.images - truth).square().mean().sqrt() > 2.0 * guess  # the control: another's measurement


@pytest.mark.parametrize("method", METHODS)
def test_no_sample_depends_on_its_batch(method: str) -> None:
    data, path = digits(VP())
    denoise, operator = data.denoiser(path), SuperResolution(2)
    y = operator(data.means.reshape(4, 1, 8, 8))[:3] * torch.tensor([1.0, 3.0, 0.3]).reshape(3, 1, 1, 1)
    run = {"steps": 12, "cond": rv.Cond(label=[0, 1, 0])}
    together = rv.inverse.restore(denoise, operator, y, method, seed=[3, 4, 5], **run).images
    run["cond"] = rv.Cond(label=[1])
    alone = rv.inverse.restore(denoise, operator, y[1:2], method, seed=[4], **run).images
    assert torch.allclose(together[1:2], alone, atol=1e-4), (together[1:2] - alone).abs().max()


@pytest.mark.parametrize("method", ["pigdm", "dps", "repaint"])
def test_methods_are_the_same_on_every_path(method: str) -> None:
    """By λ: a deterministic run over the same levels is the same run, whatever path the model is on."""
    data, _ = digits(VP())
    operator = SuperResolution(2)
    y = operator(data.means.reshape(4, 1, 8, 8)[:1])
    ends = []
    for path in PATHS.values():
        points = [path.at(lam) for lam in torch.linspace(-3.0, 3.0, 13).tolist()]
        denoise = data.denoiser(path)
        x = torch.randn(2, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
        x = x * math.hypot(points[0].alpha, points[0].sigma)
        solver = {
            "pigdm": Euler(),
            "dps": rv.inverse.dps(operator, y, 1.0, DDIM()),
            "repaint": RePaint(operator, y, solver=DDIM()),
        }[method]
        model = rv.inverse.pigdm(denoise, operator, y) if method == "pigdm" else denoise
        *_, last = rv.iterate(model, x=x, solver=solver, walk=plain(points))
        ends.append(last.x.detach() / last.to.alpha)
    for end in ends[1:]:
        assert torch.allclose(end, ends[0], atol=1e-6)


def test_one_evaluation_and_one_pass_back() -> None:
    data, path = digits(VP())
    operator = SuperResolution(2)
    y = operator(data.means.reshape(4, 1, 8, 8)[:1])
    denoise = data.denoiser(path)
    _, plain_run = sample(denoise, 3, steps=10, solver=DPMpp(2), report=True)
    for model, solver in (
        (rv.inverse.pigdm(denoise, operator, y), DPMpp(2)),
        (denoise, rv.inverse.dps(operator, y, 1.0, DPMpp(2))),
        (rv.guide.energy(denoise, rv.inverse.residual(operator, y), 0.1), DPMpp(2)),
    ):
        _, cost = sample(model, 3, steps=10, solver=solver, report=True)
        assert cost.evaluations == plain_run.evaluations == 10 and cost.backwards == 10
    cost = Count()
    rv.inverse.reddiff(counted(denoise, cost), operator, y, steps=10)
    assert (cost.evaluations, cost.backwards) == (10, 0)


def test_guides_nest_with_classifier_free_guidance() -> None:
    """Either way round: a measurement steers the guided estimate, or guidance combines steered ones; both restore the right picture,
    of which the class alone knows the half."""
    data, path = digits(VP())
    denoise, operator = data.denoiser(path), SuperResolution(4)
    pictures = data.means.reshape(4, 1, 8, 8)
    asked, cond = torch.arange(4).repeat(64), rv.Cond(label=[0, 0, 1, 1] * 64)
    y = operator(pictures[asked])

    def right(model: Denoiser) -> float:
        x = sample(model, 256, cond, solver=DDIM(1.0), steps=40)
        return float(((x[:, None] - pictures).square().mean((2, 3, 4)).argmin(1) == asked).double().mean())

    assert right(rv.inverse.pigdm(rv.guide.cfg(denoise, 2.0), operator, y)) > 0.68
    assert right(rv.guide.cfg(rv.inverse.pigdm(denoise, operator, y), 2.0)) > 0.68
    assert right(rv.guide.cfg(denoise, 2.0)) < 0.62


def test_two_measurements_together() -> None:
    """Guides stack: what one measures the other need not, and an outer guide differentiates through an inner one."""
    first, second = (Inpaint(torch.tensor(mask)) for mask in ([[1, 0], [0, 0]], [[0, 0], [1, 0]]))
    y = torch.tensor([[[[0.9, 0.0], [-0.6, 0.0]]]], dtype=torch.float64)
    model = rv.inverse.pigdm(rv.inverse.pigdm(unit(VP()), first, first(y)), second, second(y))
    x = sample(model, 5, solver=Heun("straight"), steps=30, tape=Draws)
    assert torch.allclose(x[:, 0, :, 0], y[:, 0, :, 0].expand(5, 2), atol=2e-2)


def test_in_a_latent_space() -> None:
    """Data is half the code: what is measured of the data holds there, and not of the code."""

    class Half(Space):
        def encode(self, x: Tensor) -> Tensor:
            return 2.0 * x

        def decode(self, z: Tensor) -> Tensor:
            return 0.5 * z

        def code_shape(self, data: tuple[int, ...]) -> tuple[int, ...]:
            return data

        def data_shape(self, code: tuple[int, ...]) -> tuple[int, ...]:
            return code

        def to(self, device=None, dtype=None) -> "Half":
            return self

    denoise = unit(VP())
    denoise.space = Half()
    y = KNOWN_2(torch.full((1, *SHAPE), 0.4, dtype=torch.float64))
    for model, solver in (
        (rv.inverse.pigdm(denoise, KNOWN_2, y), Heun("straight")),
        (denoise, rv.inverse.dps(KNOWN_2, y, 0.3, DDPM(), denoise.space)),
    ):
        x = sample(model, 20, solver=solver, steps=60, tape=Draws)
        assert (x[:, 0, 0, 0].mean() - 0.4).abs() < 0.1, x[:, 0, 0, 0]
    restored = rv.inverse.restore(denoise, KNOWN_2, y, "reddiff", steps=100)
    assert (restored.images[0, 0, 0, 0] - 0.4).abs() < 0.1
    with pytest.raises(InputError, match="latent code: use pigdm or dps"):
        rv.inverse.restore(denoise, KNOWN_2, y, "repaint")


KNOWN_2 = Inpaint(torch.tensor([[1, 0], [0, 0]]))


def test_bad_input() -> None:
    denoise = unit(VP())
    y = torch.zeros(1, *SHAPE)
    with pytest.raises(InputError, match=r"torch.no_grad\(\) or torch.inference_mode\(\) away"), torch.no_grad():
        sample(rv.inverse.pigdm(denoise, KNOWN_2, y), 1, steps=2)
    with pytest.raises(InputError, match="away"), torch.inference_mode():
        sample(denoise, 1, steps=2, solver=rv.inverse.dps(KNOWN_2, y))
    with pytest.raises(InputError, match="Phase has no adjoint"):
        sample(rv.inverse.pigdm(denoise, Phase(), Phase()(y)), 1, steps=2)
    with pytest.raises(InputError, match="Phase has no adjoint"):
        rv.inverse.restore(denoise, Phase(), Phase()(y), "reddiff")
    with pytest.raises(InputError, match="got 3 for a batch of 2"):
        sample(rv.inverse.pigdm(denoise, KNOWN_2, y.expand(3, *SHAPE)), 2, steps=2)
    for method in METHODS:  # shapes that broadcasting would let pass
        with pytest.raises(InputError, match=r"the same shape|the mask is 1x2x2"):
            rv.inverse.restore(denoise, KNOWN_2, y[..., :1], method, steps=4)
    with pytest.raises(InputError, match="A·A\\* is a number"):
        RePaint(Matrix(H), Y, noise=0.1)
    with pytest.raises(InputError, match="at least 0 and finite: got -1"):
        rv.inverse.pigdm(denoise, KNOWN_2, y, -1.0)
    with pytest.raises(InputError, match=r"unknown method 'pigmd'.*Did you mean 'pigdm'"):
        rv.inverse.restore(denoise, KNOWN_2, y, "pigmd")


def test_phase_retrieval_by_dps() -> None:
    """An operator that is not linear: the moduli alone draw samples towards the image, up to the half turn they cannot see."""
    denoise, truth = smooth()
    y = Phase()(truth[:1])
    solver = rv.inverse.dps(Phase(), y, 1.0, DDPM())
    found, free = (sample(denoise, 6, solver=each, steps=60) for each in (solver, DDPM()))
    near, far = (rv.inverse.consistency(Phase(), y, each).mean() for each in (found, free))
    assert near < 0.6 * far, (near, far)


def test_correctors_are_values() -> None:
    solver = rv.inverse.dps(KNOWN_2, torch.zeros(1, *SHAPE), 0.5)
    assert dataclasses.replace(solver, rate=1.0).rate == 1.0 and solver.rate == 0.5
