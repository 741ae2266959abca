"""The table contract: rows, history, walks, compiled tensors."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from reverie.core.denoiser import NetDenoiser
from reverie.core.errors import InputError
from reverie.core.estimate import Estimate
from reverie.core.schedules import VE, VP, Cosine, Flow
from reverie.solve import (
    DDIM,
    DDPM,
    GENIE,
    Churn,
    DPMpp,
    DPMpp2S,
    Euler,
    EulerMaruyama,
    Heun,
    Langevin,
    SDEDPMpp,
    grids,
    iterate,
    plain,
    sample,
)
from reverie.solve.plan import Move, Plan, Row, State, first_order, renoise


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x, time, cond):
        return self.layer(x) * (1.0 + time if time.ndim == 0 else 1.0 + time.reshape(-1, 1, 1, 1))


def plan_of(solver, schedule=None, steps: int = 20) -> Plan:
    schedule = schedule or VP()
    return solver.plan(schedule, plain(grids.time()(schedule, steps)))


@pytest.mark.parametrize("solver", [Euler(), DDIM(1.0), DDPM(), Heun(), DPMpp(2), DPMpp(3)], ids=repr)
@pytest.mark.parametrize("schedule", [VP(), Flow(), VE()], ids=repr)
def test_tensor_rows_turn_like_host_rows(solver, schedule) -> None:
    torch.manual_seed(0)
    denoise = NetDenoiser(Net().double(), schedule, "flow", shape=(3, 4, 4))
    plan = plan_of(solver, schedule, 6)
    eager = padded = solver.init(schedule.prior_std() * torch.randn(2, 3, 4, 4).double(), plan)
    for step, row in zip(plan.steps, plan.tensors(), strict=True):
        noise = [torch.randn(2, 3, 4, 4).double() for _ in step.draws]
        eager = solver.step(denoise, eager, step.row, noise)
        padded = solver.step(denoise, padded, row, noise)
        assert len(padded.history) == len(eager.history) == plan.history - 1
    torch.testing.assert_close(eager.x, padded.x, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    "solver", [Euler(), DDIM(1.0), DDPM(), Heun(), DPMpp(3), SDEDPMpp(2), EulerMaruyama(), Churn(), DPMpp2S()], ids=repr
)
def test_a_compiled_run_is_two_graphs_at_most(solver) -> None:
    """One for the steps with noise and one for those without; each is captured whole and nothing is recompiled."""
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter = CompileCounter()
    denoise = NetDenoiser(Net(), VP(), "v", shape=(3, 8, 8))
    plan = plan_of(solver)
    rows = plan.tensors(dtype=torch.float32)
    step = torch.compile(
        lambda state, row, noise: solver.step(denoise, state, row, noise), backend=counter, fullgraph=True
    )
    state = solver.init(torch.randn(2, 3, 8, 8), plan)
    with torch.no_grad():
        for each, row in zip(plan.steps, rows, strict=True):
            state = step(state, row, [torch.randn(2, 3, 8, 8) for _ in each.draws])
    assert 1 <= counter.frame_count <= 2
    assert torch.isfinite(state.x).all()
    torch._dynamo.reset()


def test_state_dependent_rows_have_no_tensors() -> None:
    for solver in (GENIE(), Langevin(), DDPM("learned")):
        with pytest.raises(InputError, match="no tensor form"):
            plan_of(solver, steps=3).tensors()


def test_host_rows_would_be_a_graph_each() -> None:
    """The negative control: floats are constants of the graph, so the same run from host rows recompiles."""
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter = CompileCounter()
    denoise, solver = NetDenoiser(Net(), VP(), "v", shape=(3, 8, 8)), Euler()
    plan = plan_of(solver, steps=6)
    step = torch.compile(lambda state, row: solver.step(denoise, state, row, []), backend=counter, dynamic=False)
    state = solver.init(torch.randn(2, 3, 8, 8), plan)
    with torch.no_grad():
        for each in plan.steps:
            state = step(state, each.row)
    assert counter.frame_count > 2
    torch._dynamo.reset()


def test_evaluations_are_counted() -> None:
    assert plan_of(Euler(), steps=7).evaluations == 7
    assert plan_of(Heun(), steps=7).evaluations == 13
    assert plan_of(DPMpp(3), steps=7).history == 3


def test_plain_walks_solve_down_and_invert_up() -> None:
    points = grids.logsnr(end=4.0)(VP(), 3)
    assert [move.kind for move in plain(points)] == ["solve"] * 3
    assert [move.kind for move in plain(points[::-1])] == ["invert"] * 3


def test_history_is_dropped_where_a_walk_turns() -> None:
    a, b, c, d = grids.logsnr(end=4.0)(VP(), 3)
    down = DPMpp(2).plan(VP(), plain((a, b, c, d)))
    turned = DPMpp(2).plan(
        VP(),
        (Move("solve", a, b), Move("solve", b, c), Move("renoise", c, b), Move("solve", b, c), Move("solve", c, d)),
    )
    lengths = [len(step.row.w) for step in turned.steps]
    assert [len(step.row.w) for step in down.steps] == [1, 2, 2]
    assert lengths == [1, 2, 0, 1, 2] and turned.evaluations == 4
    there_and_back = DPMpp(2).plan(VP(), plain((d, c, b, c, d)))
    assert [len(step.row.w) for step in there_and_back.steps] == [1, 2, 1, 2]


def test_renoising_is_the_forward_process(problem) -> None:
    """Exact marginals stay exact on the way back up."""
    for path in (VP(), Flow(), VE(), Cosine()):
        low, high = path.at(2.0), path.at(-1.0)
        m, v = problem.moments(Euler(), path, (Move("renoise", low, high),), 0.7, 0.3)
        assert m == pytest.approx(high.alpha * 0.7, rel=1e-12)
        assert v == pytest.approx((high.alpha * 0.3) ** 2 + high.sigma**2, rel=1e-12)
    end = Flow().point(1.0)  # all the way to pure noise
    row = renoise(Flow().at(1.0), end).row
    assert row.c == 0.0 and row.s == 1.0


def test_walks_with_renoising_have_tensor_rows_too() -> None:
    a, b, c = grids.logsnr(end=2.0)(VP(), 2)
    solver = DPMpp(2)
    plan = solver.plan(VP(), (*plain((a, b, c)), Move("renoise", c, b), Move("solve", b, c)))
    denoise = NetDenoiser(Net().double(), VP(), "v", shape=(3, 4, 4))
    eager = padded = solver.init(torch.randn(1, 3, 4, 4).double(), plan)
    for step, row in zip(plan.steps, plan.tensors(), strict=True):
        noise = [torch.randn(1, 3, 4, 4).double() for _ in step.draws]
        eager, padded = solver.step(denoise, eager, step.row, noise), solver.step(denoise, padded, row, noise)
    torch.testing.assert_close(eager.x, padded.x)


def test_first_order_rows_in_every_variable() -> None:
    """The row in the variable (p, q) is a·x0 + b·ε for any consistent x."""
    at, to = VP().point(0.7), VP().point(0.5)
    x0, eps = 0.8, -0.4
    for p, q in ((1.0, 0.0), (0.0, 1.0), (-1.0, 1.0), (-at.sigma, at.alpha)):
        row = first_order(at, to, (p, q), 1.3, 0.2, 0.5).row
        x = at.alpha * x0 + at.sigma * eps
        assert row.c * x + row.w[0] * (p * x0 + q * eps) == pytest.approx(1.3 * x0 + 0.2 * eps, rel=1e-12)
    with pytest.raises(InputError, match="does not exist"):
        first_order(Flow().point(1.0), Flow().point(0.5), (0.0, 1.0), 1.0, 0.0)


def test_a_step_is_the_formula_of_its_row() -> None:
    """With y = p·x0 + q·ε of the estimate: c·x + Σ w·y + s·z, with history and, where its terms are joined, without."""
    point = VP().point(0.5)
    x, out, old, z = torch.randn(4, 1, 2, dtype=torch.float64)
    pair = (0.3, -0.8)
    estimate = Estimate(x, out, (-point.sigma, point.alpha), point)
    y = 0.3 * estimate.x0 - 0.8 * estimate.eps
    two = Euler().step(lambda *_: estimate, State(x, (old,)), Row(point, pair, 2.0, (0.5, -1.0), 0.1), [z])
    torch.testing.assert_close(two.x, 2.0 * x + 0.5 * y - old + 0.1 * z)
    torch.testing.assert_close(two.history[0], y)
    one = Euler().step(lambda *_: estimate, State(x, ()), Row(point, pair, 2.0, (0.5,), 0.1), [z])
    torch.testing.assert_close(one.x, 2.0 * x + 0.5 * y + 0.1 * z)
    quiet = Euler().step(lambda *_: estimate, State(x, ()), Row(point, pair, 2.0, (0.5,), 0.0), [])
    torch.testing.assert_close(quiet.x, 2.0 * x + 0.5 * y)


GRIDS = [grids.time(), grids.logsnr(), grids.karras()]


@pytest.mark.parametrize("grid", GRIDS, ids=repr)
@pytest.mark.parametrize("schedule", [VP(), Cosine(), Flow(), VE()], ids=repr)
def test_grids_fall_to_clean_data(grid, schedule) -> None:
    for steps in (1, 2, 9):
        points = grid(schedule, steps)
        lams = [p.lam for p in points]
        assert len(points) == steps + 1 and lams == sorted(lams) and len(set(lams)) == len(lams)
        assert points[-1].sigma == 0.0 and points[-1].lam == math.inf
    inner = type(grid)(start=-3.0, end=5.0)(VP(), 4)
    assert inner[0].logsnr == -3.0 and inner[-1].logsnr == 5.0 and len(inner) == 5
    assert hash(grid) == hash(type(grid)())


def test_grids_are_uniform_in_what_they_say() -> None:
    def even(values: list[float]) -> bool:
        gaps = [b - a for a, b in pairwise(values)]
        return max(gaps) - min(gaps) < 1e-9 * abs(values[-1] - values[0])

    assert even([p.t for p in grids.time()(VP(), 8)])
    assert even([p.lam for p in grids.logsnr(end=6.0)(Cosine(), 8)])
    assert even([p.rho ** (1 / 7) for p in grids.karras(end=6.0)(Flow(), 8)])
    sigmas = [p.sigma for p in grids.karras()(VE(0.002, 80.0), 18)]  # the table of Karras et al. 2022
    expected = [(80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(18)]
    assert sigmas[:-1] == pytest.approx(expected, rel=1e-9) and sigmas[-1] == 0.0


@pytest.mark.parametrize("steps", [0, -1, 2.5, True])
def test_steps_below_one(steps) -> None:
    for grid in GRIDS:
        with pytest.raises(InputError, match="at least 1"):
            grid(VP(), steps)


def test_a_grid_in_an_infinite_variable_refuses() -> None:
    with pytest.raises(InputError, match="finite logsnr"):
        grids.logsnr(start=-math.inf)(Flow(), 3)


def test_endpoints_are_exact(problem) -> None:
    """Every solver ends on the very point it was asked for: a constant estimate arrives without error."""
    from reverie.core.exact import Gaussian

    mean = torch.tensor([0.3, -0.9], dtype=torch.float64)
    point_mass = Gaussian(mean, torch.zeros(2, 2, dtype=torch.float64))
    for path in (VP(), Cosine(), Flow(), VE()):
        for solver in (Euler(), DDIM(1.0), DDPM(), Heun(), Heun("straight"), DPMpp(2), DPMpp(3)):
            x = sample(point_mass.denoiser(path), n=2, solver=solver, steps=4, grid=grids.logsnr())
            torch.testing.assert_close(x.double(), mean.expand(2, 2), rtol=0, atol=1e-5)
            *_, last = iterate(point_mass.denoiser(path), n=1, solver=solver, steps=3, grid=grids.logsnr(end=3.0))
            assert last.to.logsnr == 3.0
