"""``sample`` and ``iterate``: what a sample depends on, what a caller may change on the way, what is refused."""

import pytest
import torch
from torch import nn

from reverie.core.condition import Cond, Label
from reverie.core.denoiser import NetDenoiser
from reverie.core.errors import InputError
from reverie.core.exact import Gaussian, GaussianMixture
from reverie.core.noise import Tape, sample_seeds
from reverie.core.paths import EDM, Shifted, SubVP, Table
from reverie.core.schedules import VE, VP, Cosine, Flow
from reverie.guide import cfg
from reverie.solve import DDIM, DDPM, DPMpp, Euler, Heun, Multistep, SDEDPMpp, UniPC, grids, iterate, plain, sample

from ..margin import apart

SOLVERS = [
    DDIM(), DDIM(1.0), DDPM("large"), Euler(), Heun(), DPMpp(2), DPMpp(3), SDEDPMpp(2), UniPC(3), Multistep(4, corrector=0.8),
]  # fmt: skip
solvers = pytest.mark.parametrize("solver", SOLVERS, ids=repr)


class Net(nn.Module):
    """A small network with a class, and a count of its evaluations."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.layer, self.out = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 2, 3, padding=1)
        self.table = nn.Embedding(4, 8)
        self.conditions = {"label": Label(3)}
        self.rows = 0
        self.calls = 0

    def forward(self, x, time, cond):
        self.calls, self.rows = self.calls + 1, self.rows + len(x)
        h = self.layer(x) + time.reshape(-1, 1, 1, 1)
        if cond is not None:
            entry = cond["label"]
            h = h + self.table(torch.where(entry.present, entry.value, 3))[:, :, None, None]
        return self.out(torch.tanh(h))


@pytest.fixture
def denoise() -> NetDenoiser:
    return NetDenoiser(Net(), VP(), "v", shape=(2, 4, 4))


@solvers
def test_a_sample_does_not_depend_on_its_company(denoise, solver) -> None:
    cond = Cond(label=[0, 1, 2, 0, 1])
    with torch.no_grad():
        whole = sample(denoise, cond=cond, solver=solver, steps=4, seed=7)
        for size in (1, 2, 4):
            torch.testing.assert_close(
                sample(denoise, cond=cond, solver=solver, steps=4, seed=7, batch_size=size), whole, rtol=1e-4, atol=1e-5
            )
        shard = sample(denoise, cond=cond.index([3, 1]), solver=solver, steps=4, seed=[(7, 3), (7, 1)])
        torch.testing.assert_close(shard, whole[[3, 1]], rtol=1e-4, atol=1e-5)
        alone = sample(denoise, cond=Cond(label=2), solver=solver, steps=4, seed=[(7, 2)])
        torch.testing.assert_close(alone[0], whole[2], rtol=1e-4, atol=1e-5)
        assert (sample(denoise, cond=cond, solver=solver, steps=4, seed=8) - whole).abs().min(dim=0).values.max() > 1e-2


def test_the_initial_noise_is_bitwise_the_same(denoise) -> None:
    seen: list[torch.Tensor] = []
    spy = denoise.net.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    with torch.no_grad():
        sample(denoise, n=4, solver="default", steps=1, seed=2)
        sample(denoise, n=4, solver="default", steps=1, seed=2, batch_size=3)
        sample(denoise, seed=[(2, 3), (2, 0)], solver="default", steps=1)
    spy.remove()
    assert torch.equal(seen[0], torch.cat(seen[1:3])) and torch.equal(seen[3], seen[0][[3, 0]])
    noise = Tape(sample_seeds(2, 4)).draw("init", 0, (2, 4, 4))
    assert torch.equal(seen[0], noise * VP().prior_std())


@solvers
def test_float32_is_float64_rounded(solver) -> None:
    for path in (VP(), Flow(), VE()):
        wide = GaussianMixture(
            torch.ones(2).double(),
            torch.tensor([[1.0, -0.5], [-1.0, 0.3]]).double(),
            torch.eye(2).double().expand(2, 2, 2) * 0.1,
        )
        narrow = GaussianMixture(torch.ones(2), wide.means.float(), wide.covariances.float())
        x = path.prior_std() * torch.randn(20, 2)
        low = sample(narrow.denoiser(path), x=x, solver=solver, steps=8)
        high = sample(wide.denoiser(path), x=x.double(), solver=solver, steps=8)
        assert low.dtype == torch.float32 and high.dtype == torch.float64
        assert (low - high).abs().median() < 2e-5 * max(1.0, path.prior_std())


@pytest.mark.parametrize(
    "other",
    [Flow(), VE(0.001, 200.0), EDM(0.001, 200.0), SubVP(), Cosine(), Shifted(Flow(), 3.0), Table.cosine()],
    ids=lambda p: type(p).__name__,
)
@pytest.mark.parametrize("solver", [DDIM(), DDIM(1.0), Heun(), DPMpp(2), Multistep(4, corrector=0.8)], ids=repr)
def test_a_network_trained_on_one_path_samples_on_another(other, solver) -> None:
    """The same λ, the same samples: all paths are one process."""
    net = NetDenoiser(Net().double(), VP(), "v", shape=(2, 4, 4))
    grid = grids.logsnr(start=-8.0, end=8.0)
    first, start = other.at(-4.0), VP().at(-4.0)
    x = start.sigma * torch.randn(2, 2, 4, 4).double()
    with torch.no_grad():
        mine = sample(net, x=x, solver=solver, steps=6, grid=grid)
        theirs = sample(net.under(other), x=x * first.sigma / start.sigma, solver=solver, steps=6, grid=grid)
    end, last = VP().at(4.0), other.at(4.0)
    torch.testing.assert_close(theirs / (last.alpha + last.sigma), mine / (end.alpha + end.sigma), rtol=1e-9, atol=1e-9)
    wrong = NetDenoiser(net.net, other, "v", shape=(2, 4, 4))  # the control: reading the network as if trained there
    with torch.no_grad():
        bad = sample(wrong, x=x * first.sigma / start.sigma, solver=solver, steps=6, grid=grid)
    assert (bad / (last.alpha + last.sigma) - mine / (end.alpha + end.sigma)).abs().max() > 1e-2


@pytest.mark.parametrize("solver", [DDIM(), DPMpp(2), DDIM(1.0)], ids=repr)
def test_sampled_moments_match(problem, solver) -> None:
    data = problem.mixture()
    draws = sample(data.denoiser(Cosine()), n=600, solver=solver, steps=25, seed=1).double()
    true = data.sample(20_000, torch.Generator().manual_seed(3))
    assert (draws.mean(0) - true.mean(0)).abs().max() < 0.15
    assert (draws.T.cov() / true.T.cov() - 1.0).diagonal().abs().max() < 0.2


def test_sampling_is_differentiable(denoise) -> None:
    x = torch.randn(1, 2, 4, 4, requires_grad=True)
    sample(denoise, x=x, steps=3, cond=Cond(label=1)).square().mean().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0 and denoise.net.layer.weight.grad.abs().sum() > 0


def test_image_to_image(problem) -> None:
    data = Gaussian(torch.zeros(1).double(), torch.full((1, 1), 0.25).double())
    x = torch.full((1000, 1), 0.8, dtype=torch.float64)
    for path in (VP(), Flow()):
        for start in (0.3, 0.6):
            point = path.point(start)
            out = sample(data.denoiser(path), x=x, start=start, solver=DPMpp(2), steps=20)
            # the flow is linear on a Gaussian: x(0) = std/√(α²std² + σ²)·x(t)
            gain = 0.5 / (point.alpha**2 * 0.25 + point.sigma**2) ** 0.5
            assert out.mean().item() == pytest.approx(
                0.8 * point.alpha * gain, abs=4 * point.sigma * gain / 1000**0.5 + 2e-3
            )
            assert out.std().item() == pytest.approx(point.sigma * gain, rel=0.1)
    gone = sample(data.denoiser(Flow()), x=x, start=1.0, steps=20)
    assert gone.mean().item() == pytest.approx(0.0, abs=0.06) and gone.std().item() == pytest.approx(0.5, rel=0.1)


def test_iterate_yields_every_node(denoise) -> None:
    with torch.no_grad():
        steps = list(iterate(denoise, n=2, solver=Heun(), steps=4, cond=Cond(label=1)))
        assert [s.index for s in steps] == [0, 1, 2, 3] and [s.evaluations for s in steps] == [2, 4, 6, 7]
        assert all(a.to is b.at for a, b in zip(steps, steps[1:], strict=False))  # noqa: RUF007
        assert steps[-1].to.sigma == 0.0 and steps[0].estimate.point == steps[0].at
        torch.testing.assert_close(steps[-1].x, sample(denoise, n=2, solver=Heun(), steps=4, cond=Cond(label=1)))
        torch.testing.assert_close(steps[1].estimate.x_t, steps[0].x)


@solvers
def test_a_rerun_repeats_the_step_exactly(denoise, solver) -> None:
    with torch.no_grad():
        plainly = [s.x for s in iterate(denoise, n=2, solver=solver, steps=4, cond=Cond(label=0))]
        seen: list[tuple[int, torch.Tensor]] = []
        again = True
        for step in iterate(denoise, n=2, solver=solver, steps=4, cond=Cond(label=0)):
            seen.append((step.index, step.x))
            if step.index == 2 and again:
                step.rerun()
                again = False
    assert [i for i, _ in seen] == [0, 1, 2, 2, 3]
    assert torch.equal(seen[2][1], seen[3][1]) and torch.equal(seen[-1][1], plainly[-1])


def test_a_rerun_with_another_condition_is_another_step(denoise) -> None:
    with torch.no_grad():
        xs = []
        for step in iterate(denoise, n=1, steps=3, cond=Cond(label=0)):
            xs.append(step.x)
            if len(xs) == 2:
                step.cond = Cond(label=1)
                step.rerun()
    assert len(xs) == 4 and apart(xs[2], xs[1]) > 1e-2


@solvers
def test_a_replaced_state_drops_the_history(denoise, solver) -> None:
    """After x is replaced, the rest is a fresh run from there: planned anew, not old weights on an empty history."""
    points = grids.logsnr(end=4.0)(VP(), 5)
    fresh = torch.randn(1, 2, 4, 4)
    with torch.no_grad():
        for step in iterate(denoise, n=1, solver=solver, walk=plain(points)):
            if step.index == 1:
                step.x = fresh
        drawn = solver.plan(VP(), plain(points)).steps[0].draws
        skip = Skipping([(0, 0)], 2 if drawn else 0)
        *_, expected = iterate(denoise, x=fresh, solver=solver, walk=plain(points[2:]), tape=skip)
    assert step.index == 4
    torch.testing.assert_close(step.x, expected.x)


class Skipping(Tape):
    """The tape from its ``first`` draw on."""

    def __init__(self, seeds, first: int) -> None:
        super().__init__(seeds)
        self.first = first

    def draw(self, stream, number, shape, span=None):
        return super().draw(stream, number + self.first, shape)


def test_a_replaced_condition_takes_effect(denoise) -> None:
    with torch.no_grad():
        runs = []
        for label in (0, 1):
            for step in iterate(denoise, n=1, steps=4, cond=Cond(label=0)):
                if step.index == 1:
                    step.cond = Cond(label=label)
            runs.append(step.x)
        torch.testing.assert_close(runs[0], sample(denoise, n=1, steps=4, cond=Cond(label=0)))
        assert apart(runs[1], runs[0]) > 1e-2
        with pytest.raises(InputError, match="out of range"):
            for step in iterate(denoise, n=1, steps=4, cond=Cond(label=0)):
                step.cond = Cond(label=9)


def test_what_is_refused(denoise) -> None:
    with pytest.raises(InputError, match="at least 1"):
        sample(denoise, n=1, steps=0)
    with pytest.raises(InputError, match="Did you mean 'label'"):
        sample(denoise, n=1, cond=Cond(labels=1))
    with pytest.raises(InputError, match="label 3 is out of range: the model knows classes 0 to 2"):
        sample(denoise, n=1, cond=Cond(label=3))
    with pytest.raises(InputError, match=r"shape \(2, 5, 5\), the model's are \(2, 4, 4\)"):
        sample(denoise, x=torch.zeros(1, 2, 5, 5))
    with pytest.raises(InputError, match="3 samples"):
        sample(denoise, n=3, cond=Cond(label=[0, 1]))
    with pytest.raises(InputError, match="2 seeds for 3"):
        sample(denoise, n=3, seed=[1, 2])
    with pytest.raises(InputError, match="2 rows for 3"):
        sample(denoise, n=3, x=torch.zeros(2, 2, 4, 4))
    with pytest.raises(InputError, match="give the image"):
        sample(denoise, n=1, start=0.5)
    with pytest.raises(InputError, match=r"\(0, 1\]"):
        sample(denoise, x=torch.zeros(1, 2, 4, 4), start=1.5)
    with pytest.raises(InputError, match="n is at least 1"):
        sample(denoise, n=0)
    with pytest.raises(InputError, match="batch_size"):
        sample(denoise, n=1, batch_size=0)


def test_scale_one_costs_one_evaluation_and_more_costs_one_call(denoise) -> None:
    net = denoise.net
    with torch.no_grad():
        for scale, rows in ((1.0, 3), (2.0, 6)):
            net.calls = net.rows = 0
            sample(cfg(denoise, scale), cond=Cond(label=[0, 1, 2]), solver=Euler(), steps=5)
            assert net.calls == 5 and net.rows == 5 * rows
        net.calls = net.rows = 0
        sample(
            cfg(denoise, 3.0, interval=(-2.0, 2.0)),
            cond=Cond(label=[0, 1, 2]),
            solver=Euler(),
            grid=grids.time(),
            steps=9,
        )
        inside = sum(-2.0 <= p.logsnr <= 2.0 for p in grids.time()(VP(), 9)[:-1])
        assert 0 < inside < 9 and net.rows == 3 * (9 + inside)


def test_scale_is_the_combination_written_out(denoise) -> None:
    x, cond = torch.randn(3, 2, 4, 4), Cond(label=[0, 1, 2])
    with torch.no_grad():
        c, u = denoise(x, 0.4, cond), denoise(x, 0.4, cond.null())
        for s in (0.0, 0.5, 1.0, 4.0):
            for read in ("x0", "eps", "v", "score", "velocity"):
                want = getattr(u, read) + s * (getattr(c, read) - getattr(u, read))
                torch.testing.assert_close(getattr(cfg(denoise, s)(x, 0.4, cond), read), want, rtol=1e-4, atol=1e-4)
        each = cfg(denoise, torch.tensor([1.0, 2.0, 3.0]))(x, 0.4, cond).x0
        for i, s in enumerate((1.0, 2.0, 3.0)):
            torch.testing.assert_close(each[i], cfg(denoise, s)(x, 0.4, cond).x0[i], rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="needs a condition"):
        cfg(denoise, 2.0)(x, 0.4)
    assert cfg(cfg(denoise, 2.0), 3.0).guidance == 6.0


@pytest.mark.parametrize(("scale", "mean"), [(2.0, 2.061), (4.0, 2.272)])
@pytest.mark.parametrize("solver", [Heun(), DPMpp(2)], ids=repr)
def test_the_guided_ode_of_gaussians(scale: float, mean: float, solver) -> None:
    """std A^s·B^(1−s) and the known mean, which is not the tilted density p·p(c|x)^s (.378 and .277 wide)."""
    from reverie.core.denoiser import Denoiser

    path, a, b = VE(0.002, 80.0), 0.5, 1.0
    one = Gaussian(torch.full((1,), 1.5).double(), torch.full((1, 1), a * a).double()).denoiser(path)
    zero = Gaussian(torch.zeros(1).double(), torch.full((1, 1), b * b).double()).denoiser(path)

    class Two(Denoiser):
        schedule, shape, space = path, (1,), one.space
        conditions = {"label": Label(1)}  # noqa: RUF012

        def __call__(self, x, t, cond=None):
            present = cond["label"].present[:, None] if cond is not None else torch.zeros(len(x), 1, dtype=torch.bool)
            estimate = one(x, t)
            return estimate.replace(torch.where(present, estimate.out, zero(x, t).out))

    x = 80.0 * torch.randn(4, 1, dtype=torch.float64)
    ends = sample(
        cfg(Two(), scale), x=torch.cat([x, x + 1.0]), cond=Cond(label=0), solver=solver, steps=128, grid=grids.karras()
    )
    gain = (ends[4:] - ends[:4]).mean().item()  # the flow is affine: d x(0)/d x(1)
    std = 80.0 * gain
    assert std == pytest.approx(a**scale * b ** (1 - scale), rel=0.02)
    assert (ends[:4] - gain * x).mean().item() == pytest.approx(mean, rel=0.01)
