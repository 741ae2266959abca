"""Multistep solvers: closed-form weights, orders with exact starting history, the ends of paths, and agreement with other libraries."""

import math
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from reverie.core.condition import Cond
from reverie.core.denoiser import Wrapper
from reverie.core.errors import InputError
from reverie.core.exact import Gaussian, GaussianMixture
from reverie.core.paths import EDM, Shifted, SubVP, Trigonometric
from reverie.core.schedules import VE, VP, Cosine, Flow
from reverie.guide import cfg
from reverie.solve.auto import NAMED, choose, default, named
from reverie.solve.grids import FITTED, fitted, logistic, time
from reverie.solve.iterating import iterate
from reverie.solve.multistep import DEIS, DPMpp, Multistep, UniPC
from reverie.solve.plan import State, plain
from reverie.solve.sampling import sample
from reverie.solve.variables import CLOCKS, STRAIGHT, X0, weights

from ..margin import apart

LOW, HIGH = -1.5, 2.0
PATHS = [VP(), VE(), Flow()]


def seeded(problem: SimpleNamespace, solver, schedule, steps: int, drop: int) -> float:
    """RMSE at λ = HIGH of a run whose first ``drop`` states and predictions are exact."""
    points = problem.between(schedule, LOW, HIGH, steps)
    denoise, (x, exact) = problem.mixture().denoiser(schedule), starts(problem, schedule, points)
    plan = solver.plan(schedule, plain(points))
    past = []
    for p, state in zip(points[:drop], x, strict=False):
        past.insert(0, denoise(state, p).linear(*plan.steps[drop].row.pair))
    empty = solver.init(x[drop], plan).history
    state = State(x[drop], tuple((past + list(empty))[: len(empty)]))
    for step in plan.steps[drop:]:
        state = solver.step(denoise, state, step.row, ())
    return (state.x - exact).square().mean().sqrt().item()


_CACHE: dict = {}


def starts(problem: SimpleNamespace, schedule, points):
    """Exact states at the first eight points and at the last."""
    key = len(points)
    if key not in _CACHE:
        on = problem.between(Flow(), LOW, HIGH, key - 1)
        x = [on[0].alpha * problem.mixture().sample(8, torch.Generator().manual_seed(1))]
        x[0] = x[0] + on[0].sigma * torch.randn(
            x[0].shape, dtype=x[0].dtype, generator=torch.Generator().manual_seed(2)
        )
        denoise = problem.mixture().denoiser(Flow())
        for a, b in pairwise(on[:9]):
            x.append(problem.flow(denoise, x[-1], a, b))
        _CACHE[key] = x, problem.flow(denoise, x[0], on[0], on[-1])
    x, exact = _CACHE[key]
    scaled = [v * (p.alpha + p.sigma) for v, p in zip(x, points, strict=False)]
    return scaled, exact * (points[-1].alpha + points[-1].sigma)


@pytest.mark.parametrize("schedule", PATHS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize(
    ("solver", "order"),
    [
        (DPMpp(1), 1), (DPMpp(2), 2), (DPMpp(3), 3), (UniPC(1), 2), (UniPC(2), 3), (UniPC(3), 4), (UniPC(2, "bh1"), 3),
        (DEIS(2), 2), (DEIS(3), 3), (DEIS(3, "rho"), 3), (DEIS(3, "time"), 3), (DEIS(4), 4),
        (Multistep(2), 2), (Multistep(4), 4), (Multistep(3, corrector=True), 4), (Multistep(3, "x0", "tau"), 3),
    ],
    ids=str,
)  # fmt: skip
def test_order_with_exact_history(problem: SimpleNamespace, schedule, solver, order: int) -> None:
    errors = [seeded(problem, solver, schedule, n, solver.order) for n in (80, 160)]
    assert math.log2(errors[0] / errors[1]) >= order - (0.15 if order < 3 else 0.3), errors


@pytest.mark.parametrize("solver", [DPMpp(3), UniPC(3), DEIS(3), Multistep(5, corrector=True)], ids=str)
def test_a_ramp_at_the_start_costs_order_but_converges(problem: SimpleNamespace, solver) -> None:
    errors = problem.errors(solver, Flow(), (10, 20, 40, 80))
    assert all(a > 2.5 * b for a, b in pairwise(errors)), errors


@pytest.mark.parametrize(
    "schedule", [Cosine(), SubVP(), EDM(0.01, 50.0), Trigonometric(), Shifted(Flow(), 3.0)], ids=str
)
@pytest.mark.parametrize(
    ("solver", "order"),
    [(DPMpp(2), 2), (UniPC(2), 3), (DEIS(3, "time"), 3), (Multistep(3, corrector=True), 4)],
    ids=str,
)
def test_order_on_the_other_paths(problem: SimpleNamespace, schedule, solver, order: int) -> None:
    errors = [seeded(problem, solver, schedule, n, solver.order) for n in (80, 160)]
    assert math.log2(errors[0] / errors[1]) >= order - (0.15 if order < 3 else 0.3), errors


@pytest.mark.parametrize("schedule", [VP(), Flow(), VE()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize(
    "solver", [DPMpp(2), DPMpp(3), UniPC(3), DEIS(3), Multistep(5, corrector=True, final_order=3)], ids=str
)
def test_start_up_at_the_true_end_of_the_path(problem: SimpleNamespace, schedule, solver, record_property) -> None:
    """From pure noise, without history: the error falls monotonically. The slope, second order for a 1-2-3 ramp, is reported."""
    denoise, start = problem.mixture().denoiser(schedule), schedule.point(1.0)
    x = start.sigma * torch.randn(8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exact = problem.flow(denoise, x, start, schedule.at(2.5))
    errors = []
    for n in (16, 32, 64, 128):
        walk = plain(logistic(0.0, 1.3, 2.0, end=5.0)(schedule, n))
        *_, last = iterate(denoise, x=x, solver=solver, walk=walk)
        errors.append((last.x - exact).square().mean().sqrt().item())
    slope = math.log2(errors[-2] / errors[-1])
    record_property("slope", slope)
    assert all(a > 1.8 * b for a, b in pairwise(errors)) and slope > 0.9, (errors, slope)
    ends_early = (
        iterate(denoise, x=x, solver=solver, walk=plain(logistic(0.0, 1.3, 2.0, end=4.9)(schedule, n)))
        for n in (64, 128)
    )
    wrong = [(list(run)[-1].x - exact).square().mean().sqrt().item() for run in ends_early]
    assert wrong[0] < 1.8 * wrong[1], "the control, an end that is not the asked one, does not converge"


@pytest.mark.parametrize("schedule", [Flow(), Cosine(), VP(), VE()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize(
    "solver",
    [DPMpp(3), UniPC(3), DEIS(3), DEIS(3, "time"), Multistep(5, corrector=True), Multistep(4, "x0", "rho")],
    ids=str,
)
def test_whole_path_from_pure_noise_to_clean_data(schedule, solver) -> None:
    """Point-mass data: every solver ends on it exactly, whatever is infinite on the way; a wide Gaussian is met ever closer."""
    mean = torch.tensor([0.7, -1.1], dtype=torch.float64)
    point = Gaussian(mean, torch.zeros(2, 2).double()).denoiser(schedule)
    x = torch.randn(4, 2, dtype=torch.float64) * schedule.prior_std()
    assert torch.allclose(sample(point, x=x, solver=solver, steps=9), mean.expand(4, 2), atol=1e-9)
    wide = Gaussian(mean, 0.25 * torch.eye(2).double()).denoiser(schedule)
    start = schedule.point(1.0)
    exact = mean + (x - start.alpha * mean) * 0.5 / (0.25 * start.alpha**2 + start.sigma**2) ** 0.5
    grid = logistic()
    errors = [
        (sample(wide, x=x, solver=solver, steps=n, grid=grid) - exact).square().mean().sqrt().item()
        for n in (8, 32, 128)
    ]
    assert max(errors[:2]) > 4.0 * errors[2], errors
    assert errors[1] < 0.02


def test_weights_are_the_integrals_of_the_lagrange_polynomials() -> None:
    at, to, *past = (Flow().point(t) for t in (0.5, 0.4, 0.65, 0.85))
    nodes = [at, *past]
    w = np.array(weights(STRAIGHT, CLOCKS["tau"], at, to, nodes))
    for k in range(3):
        exact = (to.tau ** (k + 1) - at.tau ** (k + 1)) / (k + 1)
        assert w @ [p.tau**k for p in nodes] == pytest.approx((to.alpha + to.sigma) * exact, abs=1e-14)
    h = to.lam - at.lam
    phi1 = 1.0 - math.exp(-h)
    phi2 = 1.0 - phi1 / h
    phi3 = phi2 / h - 0.5
    w = np.array(weights(X0, CLOCKS["logsnr"], at, to, nodes))
    for d, exact in ((lambda z: 1.0, phi1), (lambda z: z, phi2 * h), (lambda z: z * z, -2.0 * phi3 * h * h)):
        assert w @ [d(p.lam - at.lam) for p in nodes] == pytest.approx(to.alpha * exact, rel=1e-12)


def test_corrector_weights_fold_into_the_rows(problem: SimpleNamespace) -> None:
    """Predict, evaluate, correct, written out with two states, gives what the rows give."""
    schedule, solver = VP(), Multistep(3, corrector=True)
    points = problem.between(schedule, LOW, HIGH, 7)
    denoise = problem.mixture().denoiser(schedule)
    x = torch.randn(5, 2, dtype=torch.float64)
    *_, last = iterate(denoise, x=x, solver=solver, walk=plain(points))

    def move(x, at, to, nodes, ys):
        w = weights(STRAIGHT, CLOCKS["tau"], at, to, nodes)
        return (to.alpha + to.sigma) / (at.alpha + at.sigma) * x + sum(a * b for a, b in zip(w, ys, strict=True))

    corrected, nodes, ys = x, [points[0]], [denoise(x, points[0]).linear(-1.0, 1.0)]
    for at, to in pairwise(points):
        predicted = move(corrected, at, to, nodes[:3], ys[:3])
        used = len(nodes[:3])
        nodes, ys = [to, *nodes], [denoise(predicted, to).linear(-1.0, 1.0), *ys]
        corrected = move(corrected, at, to, nodes[: used + 1], ys[: used + 1])
    assert torch.allclose(last.x, predicted, atol=1e-12)
    assert apart(last.x, corrected) > 1e-4


def test_inverting_and_solving_back_returns(problem: SimpleNamespace) -> None:
    denoise = problem.mixture().denoiser(VP())
    points = problem.between(VP(), LOW, HIGH, 200)
    x = torch.randn(4, 2, dtype=torch.float64) * 0.5
    *_, up = iterate(denoise, x=x, solver=Multistep(4), walk=plain(points[::-1]))
    *_, down = iterate(denoise, x=up.x, solver=Multistep(4), walk=plain(points))
    assert torch.allclose(down.x, x, atol=1e-5)


def test_names_and_wrong_orders() -> None:
    assert all(named(name) is not None for name in NAMED)
    with pytest.raises(InputError, match="Did you mean 'unipc3'"):
        named("unpc3")
    for make in (
        lambda: DPMpp(4),
        lambda: UniPC(0),
        lambda: DEIS(9),
        lambda: Multistep(3, "x1"),
        lambda: Multistep(3, clock="lam"),
    ):  # pyright: ignore[reportArgumentType]
        with pytest.raises(InputError):
            make()


def guided(scale: float):
    """Three classes in the plane under guidance, the noise at the start and where a fine run of low order takes it."""
    means = torch.tensor([[1.0, 0.2], [-0.7, 0.9], [-0.1, -1.0]], dtype=torch.float64)
    covariances = torch.tensor([[[0.10, 0.03], [0.03, 0.04]]], dtype=torch.float64).repeat(3, 1, 1)
    mixture = GaussianMixture(torch.ones(3).double(), means, covariances, labels=[0, 1, 2])
    denoise, cond = cfg(mixture.denoiser(VP()), scale), Cond(label=[0, 1, 2] * 20)
    x = torch.randn(60, 2, dtype=torch.float64) * VP().prior_std()
    return denoise, cond, x, sample(denoise, x=x, cond=cond, solver=DPMpp(2), grid=logistic(), steps=1500)


@pytest.mark.parametrize("scale", [4.0, 8.0])
def test_the_default_is_stable_under_guidance(scale: float) -> None:
    denoise, cond, x, exact = guided(scale)
    errors = [(sample(denoise, x=x, cond=cond, steps=n) - exact).square().mean().sqrt().item() for n in (5, 10, 20, 40)]
    assert errors[0] < 1.0 and errors[1] < 0.2 and errors[2] < 0.05 and errors[3] < 0.02, errors
    unaware, grid = default(24)  # of high order with the whole corrector, made for more evaluations a unit of the scale
    blind = (sample(denoise, x=x, cond=cond, solver=unaware, grid=grid, steps=10) - exact).square().mean().sqrt().item()
    assert blind > 3.0 * errors[1], (blind, errors)


class Rough(Wrapper):
    """A network's error: small, and neither slow in the state nor in the time."""

    def __call__(self, x, t, cond=None):
        estimate = self.base(x, t, cond)
        assert cond is not None
        phase = (cond["label"].present * (1 + cond["label"].value))[:, None]
        return estimate.replace(estimate.out + 0.02 * torch.sin(2.0 * x + 3.0 * max(estimate.point.lam, -6.0) + phase))


@pytest.mark.parametrize("scale", [1.5, 2.75])
def test_the_default_is_stable_for_a_guided_network_on_an_interval(scale: float) -> None:
    """Narrow classes far apart in 64 dimensions, an estimate that errs, guidance on an interval: high order blows up there."""
    means = 0.5 * torch.randn(3, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    covariances = torch.diag(torch.linspace(0.01, 0.3, 64, dtype=torch.float64)).expand(3, 64, 64)
    data, cond = GaussianMixture(torch.ones(3).double(), means, covariances, [0, 1, 2]), Cond(label=[0, 1, 2] * 8)
    denoise = cfg(Rough(data.denoiser(Flow())), scale, (-10.0, 2.0))
    x = torch.randn(24, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    exact = sample(denoise, x=x, cond=cond, solver=Multistep(2, corrector=1.0), grid=logistic(0.3, 1.4, 1.8), steps=200)

    def error(steps: int, solver=None, grid=None) -> float:
        out = sample(denoise, x=x, cond=cond, solver=solver, grid=grid, steps=steps)
        return (out - exact).square().mean().sqrt().item()

    errors = [error(n) for n in (5, 10, 16, 20, 30)]
    plain_grid = [error(n, DPMpp(2), time()) for n in (5, 10, 16, 20, 30)]
    assert all(a < b for a, b in zip(errors, plain_grid, strict=True)), (errors, plain_grid)
    blind = error(16, Multistep(5, corrector=1.0, final_order=2), logistic(0.0, 1.2, 2.4))
    assert blind > 5.0 * errors[2], (blind, errors)


def test_what_auto_chooses_follows_the_scale_and_the_number_of_steps() -> None:
    """The order rises with the steps and falls with guidance."""
    orders = [default(n)[0].order for n in range(1, 60)]
    assert orders == sorted(orders) and orders[4] == orders[9] == 3 and orders[-1] == 5
    assert [default(10, s)[0].order for s in (1.0, 1.5, 4.0, 8.0, 20.0)] == [3, 2, 2, 2, 1]
    for n in (5, 10, 20, 40):
        assert [p.lam for p in default(n)[1](Flow(), n)] == sorted(p.lam for p in default(n)[1](Flow(), n))


@pytest.mark.parametrize("schedule", [Flow(), VP(), VE(), Cosine()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("steps", sorted(FITTED))
def test_the_fitted_grid_is_its_table_and_divides_any_part_of_it(schedule, steps: int) -> None:
    points = fitted()(schedule, steps)
    assert points[0] == schedule.point(1.0) and points[-1] == schedule.clean()
    assert [p.lam for p in points[1:-1]] == pytest.approx(FITTED[steps][0], abs=1e-4)  # VE ends just short of the table
    for start in (-6.0, 0.0, 8.0, 10.5)[
        : 3 if schedule == VE() else 4
    ]:  # in logsnr; the last is beyond the table, and beyond VE
        lams = [p.lam for p in fitted(start=start)(schedule, steps)]
        assert lams[0] == pytest.approx(0.5 * start) and all(a < b for a, b in pairwise(lams))
    lams = [p.lam for p in fitted(start=-4.0, end=5.0)(schedule, steps)]
    assert (lams[0], lams[-1]) == pytest.approx((-2.0, 2.5)) and all(a < b for a, b in pairwise(lams))
    with pytest.raises(InputError, match="1 to 22 steps"):
        fitted()(schedule, 23)


def test_the_default_begins_earlier_for_larger_pictures() -> None:
    """Pictures of 8x8 with each pixel k times as wide and high: along what they vary, k times the 64 numbers that they were."""
    found: dict[tuple[int, int], np.ndarray] = {}
    means = 0.4 * torch.randn(6, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    covariance = torch.diag(torch.logspace(-3.0, -0.5, 64, dtype=torch.float64))
    x = torch.randn(32, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for k in (1, 8):
        denoise = GaussianMixture(torch.ones(6).double(), k * means, (k * k * covariance).expand(6, 64, 64)).denoiser(
            Flow()
        )
        exact = sample(denoise, x=x, solver=Multistep(3, corrector=1.0), grid=logistic(0.0, 2.0, 2.0), steps=200)
        for meant in (1, 8):
            chosen = [(n, *default(n, 1.0, 64 * meant**2)) for n in (10, 14, 20, 24, 30)]
            ends = [sample(denoise, x=x, solver=solver, grid=grid, steps=n) for n, solver, grid in chosen]
            found[k, meant] = np.array([(end - exact).norm(dim=1).log().mean().exp().item() for end in ends])
    assert (found[8, 8] < 0.7 * found[8, 1]).all() and (found[1, 1] < found[1, 8]).all(), found
    picture = SimpleNamespace(shape=(3, 32, 32), guidance=1.0)
    assert choose(picture, None, None, 20) == default(20, 1.0, 3072) != default(20)  # pyright: ignore[reportArgumentType]
    assert default(5) == default(5, 1.0, 3072) and default(20) == default(20, 1.0, 512)


def test_the_fitted_grid_between_its_tables() -> None:
    """Every number up to 22 has a node at most a step from where the next number has one, and 6 lies halfway between 5 and 7."""
    grid = {n: np.array([p.tau for p in fitted(end=9.2103)(Flow(), n)]) for n in range(1, 23)}
    for n in range(4, 22):
        even = np.interp(np.linspace(0, 1, n + 2), np.linspace(0, 1, n + 1), grid[n])
        assert np.abs(even - grid[n + 1]).max() < 0.08
    halves = [np.interp(np.linspace(0, 1, 7), np.linspace(0, 1, n + 1), grid[n]) for n in (5, 7)]
    assert grid[6][2:-1] == pytest.approx(0.5 * (halves[0] + halves[1])[2:-1], abs=2e-3)
    assert [len(fitted.corrector_weights(n)) for n in range(1, 23)] == list(range(22))
    assert all(0.0 <= weight <= 2.0 for n in range(1, 23) for weight in fitted.corrector_weights(n))
    for n, (_, correct) in FITTED.items():
        assert fitted.corrector_weights(n) == pytest.approx(correct)


def test_a_share_of_the_corrector_is_that_share_of_its_weights(problem: SimpleNamespace) -> None:
    points = problem.between(VP(), LOW, HIGH, 6)
    none, some, whole = (Multistep(3, corrector=c).rows(VP(), points) for c in (0.0, 0.3, 1.0))
    for a, b, c in zip(none, some, whole, strict=True):
        width = max(len(a.row.w), len(c.row.w))
        x, y, z = (np.pad(r.row.w, (0, width - len(r.row.w))) for r in (a, b, c))
        assert y == pytest.approx(0.7 * x + 0.3 * z, abs=1e-14)
    each = Multistep(3, corrector=(0.0, 0.3, 1.0, 0.3, 0.0)).rows(VP(), points)  # row i folds in the weight of point i
    for i, like in enumerate((none, none, some, whole, some, none)):
        assert each[i].row.w == pytest.approx(like[i].row.w, abs=1e-14)
    with pytest.raises(InputError, match="weight from 0 to 2"):
        Multistep(3, corrector=2.5)
    with pytest.raises(InputError, match="5 weights is for 6 steps"):
        Multistep(3, corrector=(0.5,) * 5).rows(VP(), points[:-1])


@pytest.mark.parametrize("schedule", [Flow(), VP(), VE(), Cosine()], ids=lambda s: type(s).__name__)
def test_the_logistic_grid_spans_the_path(schedule) -> None:
    points = logistic(0.5, 1.2, 2.4)(schedule, 12)
    lams = [p.lam for p in points]
    assert len(points) == 13 and lams == sorted(lams)
    assert points[0] == schedule.point(1.0) and points[-1] == schedule.clean()
    grid = logistic(0.5, 1.2, 2.4)
    assert [grid.lam(grid.u(v)) for v in (-3.0, 0.5, 4.0)] == pytest.approx([-3.0, 0.5, 4.0])
    assert grid.u(-math.inf) == 0.0 and grid.u(math.inf) == pytest.approx(1.0)
