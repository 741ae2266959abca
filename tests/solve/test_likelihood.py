"""Likelihood against the exact density, a linear flow in closed form, and an independent integrator."""

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.integrate import quad, solve_ivp

from reverie import guide, inverse, nets
from reverie.core.condition import Cond, Image, Label
from reverie.core.denoiser import Denoiser, NetDenoiser, Wrapper
from reverie.core.errors import InputError
from reverie.core.estimate import Estimate
from reverie.core.exact import Gaussian, GaussianMixture
from reverie.core.predictions import KINDS
from reverie.core.schedules import VE, VP, Flow, Schedule
from reverie.core.space import Identity
from reverie.guide import cfg
from reverie.guide.attention import position
from reverie.inverse.dflow import Checkpointed
from reverie.nets import DiTConfig, UNetConfig
from reverie.solve import (
    DDIM,
    DDPM,
    DEIS,
    RK45,
    DPMpp,
    Euler,
    Heun,
    Multistep,
    UniPC,
    bits_per_dimension,
    dequantise,
    grids,
    invert,
    log_prob,
    plain,
)  # fmt: skip
from reverie.solve.invert import data_point
from reverie.solve.likelihood import _Divergence, density_rows
from reverie.solve.plan import Plan, first_order

PATHS = [VP(), Flow(), VE()]
F64 = torch.float64


def mixture() -> GaussianMixture:
    covariances = [[[0.09, 0.0], [0.0, 0.09]], [[0.2, 0.1], [0.1, 0.15]]]
    means = torch.tensor([[-1.0, 0.5], [0.8, -0.4]], dtype=F64)
    return GaussianMixture(torch.tensor([0.3, 0.7], dtype=F64), means, torch.tensor(covariances, dtype=F64))


def gaussian_answer(x: torch.Tensor, mean: float, std: float, schedule, start, end) -> torch.Tensor:
    """Density of the flow of N(mean, std²I): with s(p)² = α²·std² + σ² the map is linear, (x_u − α_u·m)/s_u = (x_t − α_t·m)/s_t."""
    s, e = (math.hypot(p.alpha * std, p.sigma) for p in (start, end))
    latent = end.alpha * mean + e * start.alpha * (x - mean) / s
    log_normal = -0.5 * (latent / end.sigma) ** 2 - math.log(end.sigma * math.sqrt(2 * math.pi))
    return (log_normal + math.log(e / s) + math.log(start.alpha)).flatten(1).sum(1)


@pytest.mark.parametrize("schedule", PATHS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("solver", [RK45(), Heun("straight")], ids=["rk45", "heun"])
def test_a_mixture_within_002_nats(schedule, solver):
    data = mixture()
    x = data.sample(24)
    with torch.no_grad():
        got = log_prob(data.denoiser(schedule), x, solver=solver, trace="exact")
        exact = data.log_prob(x)
    assert (got - exact).abs().max() < 0.02
    assert exact.std() > 0.5  # a constant would not do


def test_without_the_trace_it_fails(monkeypatch):
    data = mixture()
    x = data.sample(8)
    monkeypatch.setattr(_Divergence, "_exact", lambda self, y, x, keep: x.new_zeros(len(x)))
    with torch.no_grad():
        got = log_prob(data.denoiser(VP()), x, solver=Heun("straight"), steps=50, trace="exact")
    assert (got - data.log_prob(x)).abs().mean() > 1.0


@pytest.mark.parametrize("schedule", PATHS, ids=lambda s: type(s).__name__)
def test_a_gaussian_to_eight_digits(schedule):
    mean, std = 0.3, 0.5
    denoise = Gaussian(torch.full((2,), mean, dtype=F64), std**2 * torch.eye(2, dtype=F64)).denoiser(schedule)
    x = mean + std * torch.randn(2, 2, dtype=F64)
    with torch.no_grad():
        got = log_prob(denoise, x, solver=RK45(1e-10, 1e-10), trace="exact")
    assert (got - gaussian_answer(x, mean, std, schedule, data_point(schedule), schedule.point(1.0))).abs().max() < 1e-8


@pytest.mark.parametrize(
    "solver, order",
    [
        (Euler(), 1), (DDIM(), 1), (Heun("straight"), 2), (Heun("eps"), 2), (DPMpp(1), 1), (DPMpp(2), 2), (DPMpp(3), 2),
        (DEIS(3), 2), (UniPC(1), 2), (UniPC(2), 2), (UniPC(3), 2), (Multistep(5, corrector=True), 2),
    ],
    ids=str,
)  # fmt: skip
def test_every_table_keeps_its_order(solver, order):
    """The error of log p alone. Multistep tables start with a move of order 1, whatever their own, so the whole has order 2."""
    schedule, mean, std = VP(), 0.3, 0.5
    denoise = Gaussian(torch.full((1,), mean, dtype=F64), std**2 * torch.eye(1, dtype=F64)).denoiser(schedule)
    x = torch.tensor([[0.9], [-0.4]], dtype=F64)
    grid = grids.logsnr(start=-3.0, end=5.0)
    exact = gaussian_answer(x, mean, std, schedule, schedule.at(2.5), schedule.at(-1.5))
    with torch.no_grad():
        errors = [
            float((log_prob(denoise, x, solver=solver, steps=n, grid=grid, trace="exact") - exact).abs().max())
            for n in (30, 60, 120)
        ]
    slope = math.log2(errors[1] / errors[2])
    assert slope > order - 0.15, (errors, slope)
    assert errors[2] < errors[1] < errors[0]


@pytest.mark.parametrize("order", [1, 3])
def test_the_second_row_integrates_polynomials(order):
    """With M = σ and μ = e^λ: Σ_j w'_j·tr_j is ∫ M·tr dμ wherever M·tr is a polynomial in λ of a degree below the order."""
    points = grids.logsnr(start=-3.0, end=5.0)(VP(), 10)[::-1]
    plan = DPMpp(order).plan(VP(), plain(points))
    rows = density_rows(plan)
    for i in range(order - 1, 10):
        at, to, (log_c, weights) = points[i], points[i + 1], rows[i]
        assert log_c == pytest.approx(math.log(to.sigma / at.sigma))
        past = points[i + 1 - order : i + 1][::-1]
        for degree in range(order):
            got = sum(w * p.lam**degree / p.sigma for w, p in zip(weights, past, strict=True))
            exact = quad(lambda lam, k=degree: lam**k * math.exp(lam), at.lam, to.lam, epsabs=1e-13)[0]
            assert got == pytest.approx(exact, abs=1e-10)
            # the first row is for x, and differs
            first = sum(w * p.lam**degree / p.sigma for w, p in zip(plan.steps[i].row.w, past, strict=True))
            assert abs(first - exact) > 1e-3 * abs(exact)


def test_one_probe_is_unbiased_and_its_own_in_any_batch():
    data = mixture()
    denoise, n = data.denoiser(VP()), 600
    x = data.sample(1).expand(n, 2)
    kwargs = {"solver": Heun("straight"), "steps": 25}
    with torch.no_grad():
        exact = log_prob(denoise, x[:1], trace="exact", **kwargs)
        estimates = log_prob(denoise, x, seed=3, **kwargs)
        error = estimates.std() / math.sqrt(n)
        assert error > 0.0
        assert abs(float(estimates.mean() - exact)) < 3 * float(error)
        again = log_prob(denoise, x[:7], seed=[(3, i) for i in range(5, 12)], **kwargs)
        assert (again - estimates[5:12]).abs().max() < 1e-12
        many = log_prob(denoise, x[:40], probes=8, **kwargs)
    # four diagonal sign patterns in two dimensions, v and −v alike: a probe is one of two values
    assert len(estimates.round(decimals=9).unique()) == 2
    assert many.std() < 0.6 * estimates.std()


def test_a_probe_stays_the_same_along_the_path():
    """For Jacobians that are diagonal vᵀJv is the trace, whatever the signs, so a Gaussian has no estimation error at all."""
    denoise = Gaussian(torch.zeros(3, dtype=F64), torch.diag(torch.tensor([0.1, 0.5, 2.0], dtype=F64))).denoiser(VP())
    x = torch.randn(4, 3, dtype=F64)
    with torch.no_grad():
        a, b = (log_prob(denoise, x, trace=t, solver=Euler(), steps=10) for t in ("exact", "hutchinson"))
    assert (a - b).abs().max() < 1e-10


def test_rk45_samples_do_not_depend_on_their_batch():
    data = mixture()
    x = data.sample(5) * torch.tensor([[1.0], [3.0], [0.2], [1.0], [2.0]], dtype=F64)
    with torch.no_grad():
        whole = log_prob(data.denoiser(VP()), x, seed=1)
        one = log_prob(data.denoiser(VP()), x[3:4], seed=[(1, 3)])
    assert (whole[3] - one[0]).abs() < 1e-12


class Pair(Denoiser):
    """One number; label c is N(0, s_c²) and the null is N(0, s_∅²): every guided flow of it is linear."""

    def __init__(self, stds, null, schedule) -> None:
        self.stds, self.null = torch.tensor(stds, dtype=F64), null
        self.schedule, self.shape, self.conditions, self.space = schedule, (1,), {"label": Label(len(stds))}, Identity()

    def __call__(self, x, t, cond=None):
        point = self.point(t, x)
        std = torch.full((len(x), 1), self.null, dtype=x.dtype)
        if cond is not None:
            entry = cond["label"]
            std = torch.where(entry.present[:, None], self.stds[entry.value][:, None], std)
        x0 = point.alpha * std**2 / (point.alpha**2 * std**2 + point.sigma**2) * x
        return Estimate(x, x0, KINDS["x0"](point), point)


@pytest.mark.parametrize("schedule", PATHS[::2], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("interval", [None, (-1.0, 3.0)])
def test_guided_density_is_that_of_the_guided_flow(schedule, interval):
    """d log(x/α)/dρ = Σ_i w_i·ρ/(s_i² + ρ²): the guided map is a product of powers, its log-derivative the density's change."""
    stds, null, scale, label = [0.4, 0.7], 1.0, 2.5, 1
    denoise, x = Pair(stds, null, schedule), torch.tensor([[0.3], [-1.1]], dtype=F64)
    start, end = data_point(schedule), schedule.point(1.0)

    def log_gain(w, low, high):  # of x/α from noise level low to high
        return sum(0.5 * v * math.log((s**2 + high**2) / (s**2 + low**2)) for v, s in ((w, stds[label]), (1 - w, null)))

    cuts = [] if interval is None else [math.exp(-interval[1] / 2), math.exp(-interval[0] / 2)]
    levels = [start.rho, *cuts, end.rho]
    inside = [scale] if interval is None else [1.0, scale, 1.0]
    gain = sum(log_gain(w, a, b) for w, a, b in zip(inside, levels[:-1], levels[1:], strict=True))
    latent = x * math.exp(gain) * end.alpha
    exact = -0.5 * (latent / end.sigma) ** 2 - math.log(end.sigma * math.sqrt(2 * math.pi)) + gain + math.log(end.alpha)

    guided = cfg(denoise, scale, interval)
    with torch.no_grad(), pytest.warns(UserWarning, match="guided flow"):
        got = log_prob(guided, x, Cond(label=label), solver=RK45(1e-5, 1e-6), trace="exact")
    # at a kink the error estimate is blind to part of the error
    assert (got - exact[:, 0]).abs().max() < (1e-3 if interval is None else 6e-3)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        plain_density = log_prob(denoise, x, Cond(label=label), trace="exact")
    assert (plain_density - exact[:, 0]).abs().min() > 0.01


class Pixels(Denoiser):
    """Independent pixels (1, H, W), label c N(0, s_c²) and the null N(0, s_∅²)."""

    def __init__(self, size: int = 2, schedule: Schedule = Flow()) -> None:
        self.one = Pair([0.4, 0.7], 1.0, schedule)
        self.schedule, self.shape, self.conditions, self.space = (
            schedule,
            (1, size, size),
            self.one.conditions,
            Identity(),
        )

    def __call__(self, x, t, cond=None):
        point = self.point(t, x)
        std = torch.ones(len(x), dtype=x.dtype)
        if cond is not None:
            entry = cond["label"]
            std = torch.where(entry.present, self.one.stds[entry.value], std)
        std = std.reshape(-1, 1, 1, 1)
        return Estimate(
            x, point.alpha * std**2 / (point.alpha**2 * std**2 + point.sigma**2) * x, KINDS["x0"](point), point
        )


class Leaning:
    """A classifier of noisy samples that is smooth and not linear."""

    classes, schedule = 2, Flow()

    def __call__(self, x, point):
        total = x.flatten(1).sum(1, keepdim=True)
        return torch.log_softmax(torch.cat([torch.sin(total), -total], 1), 1)


def bent(x0: torch.Tensor) -> torch.Tensor:
    return torch.sin(x0).flatten(1).sum(1)


def _block() -> Denoiser:
    net = nets.build(DiTConfig(patch=1, width=8, depth=2, heads=2), channels=1, size=2).double().requires_grad_(False)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(3))
    return guide.without(NetDenoiser(net.eval(), Flow(), "flow", shape=(1, 2, 2)), ["blocks.1"])


def _text() -> Denoiser:
    config = UNetConfig(width=8, multipliers=(1,), blocks=1, attention=(1,), heads=1, groups=4, context=4, length=2)
    net = nets.build(config, channels=1, size=4)
    return guide.attention(NetDenoiser(net, Flow(), "flow", shape=(1, 4, 4)), position(0, (0.5, 0.5)))


class Shown(Pixels):
    """The same, which is also shown a picture and draws more of it."""

    def __init__(self) -> None:
        super().__init__()
        self.conditions = {**self.conditions, "image": Image(self.shape[0])}

    def __call__(self, x, t, cond=None):
        label = None if cond is None else Cond(label=cond["label"])
        found = super().__call__(x, t, label)
        if cond is None:
            return found
        picture = cond["image"].value.to(x) * cond["image"].present.to(x)[:, None, None, None]
        return found.replace(found.out + 0.2 * torch.tanh(x) * picture)


def _regions() -> Denoiser:
    config = UNetConfig(width=8, multipliers=(1,), blocks=1, attention=(1,), heads=1, groups=4, context=4, length=4)
    net = nets.build(config, channels=1, size=2).double().requires_grad_(False)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(3))
    left = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    denoise = NetDenoiser(net.eval(), Flow(), "flow", shape=(1, 2, 2))
    return guide.regional(denoise, [(left, Cond(text=torch.ones(1, 2, 4, dtype=F64)))])


LABEL = Cond(label=1)
SMOOTH: dict[str, tuple[Callable[[], Denoiser], Cond | None]] = {
    "CFG": (lambda: guide.cfg(Pixels(), 2.0), LABEL),
    "Auto": (lambda: guide.auto(Pixels(), guide.cfg(Pixels(), 0.5), 2.0), LABEL),
    "Compose": (lambda: guide.compose(Pixels(), [(LABEL, 1.5), (Cond(label=0), -0.5)]), None),
    "Classified": (lambda: guide.classifier(Pixels(), Leaning(), 0.5), LABEL),
    "EnergyGuide": (lambda: guide.energy(Pixels(), bent, 0.5), LABEL),
    "Windows": (lambda: guide.windows(Pixels(2), (2, 3), 1), LABEL),
    "Without": (_block, None),
    "Under": (lambda: Pixels(2, VP()).under(Flow()), LABEL),
    "Checkpointed": (lambda: Checkpointed(Pixels()), LABEL),
    "Rescaled": (lambda: guide.rescaled(Pixels(), 2.0, amount=0.0), LABEL),
    "APG": (lambda: guide.apg(Pixels(), 2.0, parallel=1.0), LABEL),
    "Instructed": (lambda: guide.instruct(Shown(), 2.0, 1.5), Cond(label=1, image=torch.ones(1, 1, 2, 2))),
    "Regional": (_regions, Cond(text=-torch.ones(1, 2, 4, dtype=F64))),
}
ROUGH: dict[str, tuple[Callable[[], Denoiser], Cond | None]] = {
    "Threshold": (lambda: guide.threshold(Pixels()), LABEL),
    "Rescaled": (lambda: guide.rescaled(Pixels(), 2.0), LABEL),
    "APG": (lambda: guide.apg(Pixels(), 2.0), LABEL),
    "APG radius": (lambda: guide.apg(Pixels(), 2.0, parallel=1.0, radius=3.0), LABEL),
    "PiGDM": (lambda: inverse.pigdm(Pixels(), inverse.operators.Inpaint(torch.eye(2)), torch.zeros(1, 1, 2, 2)), LABEL),
    "Attentive": (_text, Cond(text=torch.zeros(1, 2, 4))),
    "CFG": (lambda: guide.cfg(guide.threshold(Pixels()), 2.0), LABEL),
    "Auto": (lambda: guide.auto(Pixels(), guide.threshold(Pixels()), 2.0), LABEL),
    "Under": (lambda: guide.threshold(Pixels(2, VP())).under(Flow()), LABEL),
}


def test_every_guide_is_declared():
    kinds, todo = set(), [Wrapper]
    while todo:
        todo += (found := todo.pop().__subclasses__())
        kinds |= {kind.__name__ for kind in found if kind.__module__.startswith("reverie.guide")}
    assert kinds - {"Contrast", "Gradient"} <= {*SMOOTH, *(name.split()[0] for name in ROUGH)}


@pytest.mark.filterwarnings("ignore:the model is guided")
@pytest.mark.parametrize("name", SMOOTH)
def test_the_density_of_a_smooth_guide_is_that_of_its_flow(name):
    """The change of variables by finite differences of the same integration, sample by sample and number by number."""
    make, cond = SMOOTH[name]
    denoise, h = make(), 1e-4
    d = math.prod(denoise.shape)
    x = 0.6 * torch.randn(2, *denoise.shape, dtype=F64, generator=torch.Generator().manual_seed(1))
    grid, steps = grids.time(start=-3.0, end=5.0), 32
    offsets = h * torch.cat([torch.zeros(1, d), torch.eye(d), -torch.eye(d)]).to(F64).reshape(-1, *denoise.shape)
    ends = torch.stack([invert(denoise, row + offsets, steps, cond, Heun("straight"), grid) for row in x])
    ends = ends.detach().flatten(2)
    jacobian = (ends[:, 1 : d + 1] - ends[:, d + 1 :]) / (2 * h)
    last = grid(denoise.schedule, steps)[0]
    prior = -0.5 * (ends[:, 0] / last.sigma).square().sum(1) - d * math.log(last.sigma * math.sqrt(2 * math.pi))
    got = log_prob(denoise, x, cond, Heun("straight"), steps, grid, "exact")
    # a table integrates the trace, whose error is that of its order; the guide's own part is far larger
    exact = prior + torch.linalg.slogdet(jacobian).logabsdet
    assert (got - exact).abs().max() < 0.01, (got, exact)


@pytest.mark.parametrize("name", ROUGH)
def test_a_guide_that_is_not_smooth_has_no_density(name):
    make, cond = ROUGH[name]
    denoise = make()
    with pytest.raises(InputError, match=rf"under (Threshold|{name.split()[0]}) the estimate has kinks or jumps"):
        log_prob(denoise, torch.zeros(2, *denoise.shape, dtype=F64), cond)


def test_refuses_what_has_no_such_density():
    denoise, x = Pair([0.4], 1.0, VP()), torch.zeros(2, 1, dtype=F64)
    with pytest.raises(InputError, match="no log-density"):  # the variable ε does not reach pure noise
        density_rows(Plan(Flow().at(0.0), (first_order(Flow().at(0.0), Flow().point(1.0), (0.0, 1.0), 0.0, 1.0),), 1))
    for solver in (DDPM(), DDIM(eta=0.5)):
        with pytest.raises(InputError, match="draws noise"):
            log_prob(denoise, x, solver=solver)
    with pytest.raises(InputError, match="shape"):
        log_prob(denoise, torch.zeros(2, 3))
    with pytest.raises(InputError, match="unknown trace"):
        log_prob(denoise, x, trace="hutch")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="out of range"):
        log_prob(denoise, x, Cond(label=5))


def test_the_mixture_by_an_independent_integrator():
    """(x, log p) in the path's own time with a finite-difference divergence, by scipy."""
    data, schedule = mixture(), Flow()
    denoise, x = data.denoiser(schedule), torch.tensor([[0.4, 0.1]], dtype=F64)
    start, end = schedule.at(2.0), schedule.at(-2.0)
    h = 1e-5
    offsets = torch.cat([torch.zeros(1, 2), h * torch.eye(2), -h * torch.eye(2)]).to(F64)

    def slope(t, y):
        v = denoise(torch.from_numpy(y[:2])[None] + offsets, float(t)).velocity
        divergence = (v[1, 0] - v[3, 0] + v[2, 1] - v[4, 1]) / (2 * h)
        return np.array([*v[0], -float(divergence)])

    y0 = np.array([*(start.alpha * x[0]).tolist(), 0.0])
    y = solve_ivp(slope, (start.t, end.t), y0, method="DOP853", rtol=1e-7, atol=1e-7).y[:, -1]
    prior = -0.5 * float((y[:2] ** 2).sum()) / end.sigma**2 - 2 * math.log(end.sigma * math.sqrt(2 * math.pi))
    expected = prior - y[2] + 2 * math.log(start.alpha)
    with torch.no_grad():
        got = log_prob(denoise, x, solver=RK45(1e-7, 1e-7), grid=grids.time(start=-4.0, end=4.0), trace="exact")
    assert float(got) == pytest.approx(expected, abs=1e-5)


def test_on_another_path_the_density_is_the_same():
    data = mixture()
    x = data.sample(2)
    low = VP().at(-4.5)
    with torch.no_grad():
        kwargs = {"grid": grids.time(start=2 * low.lam), "trace": "exact", "solver": RK45(1e-6, 1e-6)}
        here = log_prob(data.denoiser(VP()), x, **kwargs)
        there = log_prob(data.denoiser(VP()).under(Flow()), x, **kwargs)
    assert (here - there).abs().max() < 1e-4


class Tiny(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 1, 3, padding=1)
        self.conditions = {}

    def forward(self, x, time, cond=None):
        return torch.tanh(self.conv(x)) * (1 + time.reshape(-1, 1, 1, 1) if time.ndim else 1 + time)


@pytest.mark.parametrize("solver", [Heun("straight"), RK45(1e-3, 1e-3)], ids=["heun", "rk45"])
def test_a_network_in_float32_and_its_gradients(solver):
    net = Tiny()
    denoise = NetDenoiser(net, Flow(), "flow", shape=(1, 3, 3))
    x = torch.randn(2, 1, 3, 3)
    with torch.no_grad():
        exact = log_prob(denoise, x, solver=solver, steps=10, trace="exact")
    wide = log_prob(
        NetDenoiser(Tiny().double().requires_grad_(False), Flow(), "flow", shape=(1, 3, 3)).to("cpu"),
        x.double(),
        steps=2,
    )
    assert exact.dtype == torch.float32 and wide.dtype == F64 and not exact.requires_grad
    assert log_prob(denoise, x.half(), solver=Euler(), steps=2, trace="exact").dtype == torch.float32

    x = x.requires_grad_()
    value = log_prob(denoise, x, solver=solver, steps=10, trace="exact")
    assert torch.allclose(value, exact, atol=1e-4)
    slope, weight = torch.autograd.grad(value[0], (x, net.conv.weight))
    assert float(slope[1].abs().max()) == 0.0 and float(weight.abs().max()) > 0.0
    step = torch.zeros_like(x)
    step[0, 0, 1, 1] = 1e-2
    with torch.no_grad():
        ends = [log_prob(denoise, x + s * step, solver=solver, steps=10, trace="exact")[0] for s in (1, -1)]
    assert float((ends[0] - ends[1]) / 2e-2) == pytest.approx(float(slope[0, 0, 1, 1]), rel=0.05, abs=0.05)


def test_bits_per_dimension_and_dequantisation():
    # uniform on [−1, 1]: density ½ each, which is 8 bits for 256 levels and 7 more than log2 of the density
    logp = torch.tensor([-12.0 * math.log(2.0)])
    assert float(bits_per_dimension(logp, (3, 2, 2))) == pytest.approx(8.0)
    assert float(bits_per_dimension(torch.zeros(1), (3, 2, 2))) == pytest.approx(7.0)
    levels = torch.arange(256.0).reshape(1, 1, 16, 16) / 127.5 - 1.0
    noisy = dequantise(levels.expand(64, 1, 16, 16), seed=1)
    assert noisy.min() >= -1.0 and noisy.max() < 1.0
    k = torch.floor((noisy + 1.0) * 128)
    assert torch.equal(k[5], torch.arange(256.0).reshape(1, 16, 16))
    u = (noisy + 1.0) * 128 - k
    assert abs(float(u.mean()) - 0.5) < 0.01 and abs(float(u.var()) - 1 / 12) < 0.002
    alone = dequantise(levels, seed=[(1, 9)])
    assert torch.equal(alone[0], noisy[9])
    assert float(bits_per_dimension(torch.zeros(1), (4,), levels=2)) == 0.0


def test_the_exact_trace_of_a_network_that_folds_pixels():
    """The demo's kind of U-Net, whose patches PyTorch's batched gradients refuse; against the whole Jacobian."""
    torch.manual_seed(0)
    config = UNetConfig(patch=2, width=8, multipliers=(1, 1), blocks=1, attention=(2,), heads=2, groups=4)
    net = nets.build(config, channels=1, size=(8, 8)).double().requires_grad_(False)
    for parameter in net.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    denoise = NetDenoiser(net, Flow(), "flow", shape=(1, 8, 8))
    x, point = torch.randn(2, 1, 8, 8, dtype=F64), Flow().point(0.4)
    y, trace = _Divergence(denoise, None, None)(x, point, (-1.0, 1.0))
    whole = torch.autograd.functional.jacobian(lambda x: denoise(x, point).linear(-1.0, 1.0).flatten(1).sum(0), x)
    expected = torch.stack([whole[:, i].flatten(1).detach().trace() for i in range(2)])  # pyright: ignore[reportCallIssue,reportArgumentType]
    assert torch.allclose(trace, expected, rtol=1e-9) and torch.equal(y, denoise(x, point).linear(-1.0, 1.0))
    assert float(trace.detach().abs().min()) > 0.1
    assert log_prob(denoise, x, solver="heun", steps=1, trace="exact").isfinite().all()
