"""Progressive, DMD2, ADD, LADD, moments and drifting against closed forms, each beside a wrong variant that fails."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from reverie.core.batch import Batch
from reverie.core.condition import Cond
from reverie.core.denoiser import NetDenoiser
from reverie.core.draws import Draws
from reverie.core.exact import Gaussian, GaussianMixture
from reverie.core.schedules import VP, Cosine, Flow, Schedule
from reverie.core.task import Moment, Task
from reverie.core.times import Uniform
from reverie.distill import progressive
from reverie.distill.add import ADD
from reverie.distill.dmd2 import DMD2, matched
from reverie.distill.drifting import Drifting, field, potential
from reverie.distill.matching import picked
from reverie.distill.moments import Moments, posterior
from reverie.distill.student import Student
from reverie.learn.ema import exponent
from reverie.solve import DDIMStep, grids

S = 0.6
NOW = Moment(0, 0, 100)


class Gain(nn.Module):
    """x0 = c·x: of pure noise, a Gaussian of standard deviation c."""

    def __init__(self, c: float) -> None:
        super().__init__()
        self.c = nn.Parameter(torch.tensor(float(c)))

    def forward(self, x: Tensor, time: Tensor, cond=None) -> Tensor:
        return self.c * x


class Known(nn.Module):
    """The exact denoiser of N(0, s²) on the straight path; s is trained."""

    def __init__(self, s: float) -> None:
        super().__init__()
        self.log_s = nn.Parameter(torch.tensor(float(s)).log())

    def forward(self, x: Tensor, time: Tensor, cond=None) -> Tensor:
        t, v = time.expand(len(x))[:, None], (2.0 * self.log_s).exp()
        return (1 - t) * v / ((1 - t) ** 2 * v + t * t) * x


def scalar(c: float) -> Student:
    student = NetDenoiser(Gain(c), Flow(), "x0", shape=(1,))
    return Student(student, lambda: NetDenoiser(Known(S), Flow(), "x0", shape=(1,)))


def play(task: Task, steps: int, data: Callable[[int], Batch], lr: float | dict[str, float], size: int = 256) -> None:
    """A bare loop of training: every player's turn by Adam at a falling rate, only its weights with a gradient."""
    sides = {name: list(p.module.parameters()) for name, p in task.players.items() if p.optim is not None}
    rates = lr if isinstance(lr, dict) else dict.fromkeys(sides, lr)
    optimizers = {name: torch.optim.Adam(own, lr=rates[name], betas=(0.5, 0.99)) for name, own in sides.items()}
    for step in range(steps):
        now, batch = Moment(step, step * size, steps * size), data(step)
        for name, optimizer in optimizers.items():
            optimizer.param_groups[0]["lr"] = rates[name] * (1.0 - now.fraction)
        for number, name in enumerate(task.turns(now)):
            for other, own in sides.items():
                for p in own:
                    p.requires_grad_(other == name)
            optimizers[name].zero_grad()
            sum(v.mean() for v in task.loss(name, batch, Draws(0, step * size, size, number), now).values()).backward()
            optimizers[name].step()


def normal(step: int, size: int = 256) -> Batch:
    return Batch(S * torch.randn(size, 1, generator=torch.Generator().manual_seed(step)))


# Progressive


@pytest.mark.parametrize("path", [Flow(), Cosine(), VP()])
def test_a_single_step_with_the_target_ends_where_two_steps_did_and_with_swapped_times_it_does_not(path: Schedule):
    torch.manual_seed(0)
    data = GaussianMixture(torch.tensor([0.4, 0.6]), torch.randn(2, 3), 0.1 * torch.eye(3).repeat(2, 1, 1)).to(
        dtype=torch.float64
    )
    teacher, points = DDIMStep(data.denoiser(path)), grids.time()(path, 8)
    x, i = torch.randn(64, 3, dtype=torch.float64), torch.randint(0, 4, (64,))
    at, middle, to = (picked(points, 2 * i + k, x) for k in (0, 1, 2))
    end = teacher(teacher(x, at, middle), middle, to)

    def landed(goal: Tensor) -> float:
        q = to.sigma / at.sigma
        return float((to.alpha * goal + q * (x - at.alpha * goal) - end).abs().max())

    assert landed(progressive.target(x, end, at, to)) < 1e-12
    assert landed(progressive.target(x, end, at, middle)) > 1e-3
    once = teacher(x, at, to)
    assert (once - end).abs().max() > 1e-3  # two steps are not one


def test_the_first_round_learns_from_the_diffusion_model_and_the_next_from_the_student():
    model = scalar(0.5)
    model.denoise = NetDenoiser(Known(0.5), Flow(), "x0", shape=(1,))
    model.anywhere = True
    model.estimate = lambda x, t, s, cond=None: model.denoise(x, t, cond)
    task = progressive.Progressive(model, [2, 1])
    first = task.loss("student", normal(0), Draws(0, 0, 256), Moment(0, 0, 512))["x0"].mean()
    assert first > 1e-3  # the teacher knows another spread
    own = task.previous.denoise.net.log_s
    with torch.no_grad():
        model.denoise.net.log_s.fill_(-1.0)
    task.after_step(Moment(1, 128, 512))
    assert own != -1.0
    task.after_step(Moment(2, 256, 512))
    assert own == -1.0
    assert task.round(Moment(9, 511, 512)) == 1 and not own.requires_grad


def test_a_round_hands_on_the_average_of_its_weights_towards_its_end():
    task = progressive.Progressive(scalar(0.5), [2, 1])
    path, handed = [], task.previous.denoise.net.c
    for step in range(50):
        task.now, task.seen = 0, step / 100
        with torch.no_grad():
            task.model.denoise.net.c.fill_(step + 1.0)
        task.after_step(Moment(step + 1, step + 1, 100))
        path.append(step + 1.0)
    gamma = exponent(0.1)
    weights = torch.tensor(path).double()
    expected = ((weights / 50) ** (gamma + 1) - ((weights - 1) / 50) ** (gamma + 1)) @ weights
    assert handed.item() == pytest.approx(float(expected), rel=1e-5)
    assert (
        task.model.denoise.net.c.item() == handed.item() < 49.0
    )  # the student goes on from there, and the last weights are not it


def test_rounds_to_two_steps_and_to_one_are_twice_as_long():
    task = progressive.Progressive(scalar(0.5), [8, 4, 2, 1])
    rounds = [task.round(Moment(0, images, 600)) for images in range(600)]
    assert [rounds.count(i) for i in range(4)] == [100, 100, 200, 200]


# DMD2


def gradient(c: float, fake: float, swapped: bool = False, renoised: bool = True) -> float:
    """d/dc of the loss of a generator c·z by exact scores, the student's own those of N(0, fake²)."""
    g = torch.Generator().manual_seed(0)
    z, noise = torch.randn(2, 4096, 1, generator=g, dtype=torch.float64)
    t = 0.02 + 0.96 * torch.rand(4096, generator=g, dtype=torch.float64)
    scale = torch.tensor(c, dtype=torch.float64, requires_grad=True)
    x = scale * z
    point = Flow().point(t).align(x)
    x_t = (point.alpha * x + point.sigma * noise if renoised else x).detach()
    spreads = (fake, S) if swapped else (S, fake)
    real, own = (
        Gaussian(torch.zeros(1).double(), s**2 * torch.eye(1).double()).denoiser(Flow())(x_t, point).x0 for s in spreads
    )
    matched(x, real, own).mean().backward()
    return float(scale.grad)  # pyright: ignore[reportArgumentType]


def test_scores_move_a_gaussian_towards_the_teacher_from_either_side_and_swapped_ones_away():
    for c in (0.2, 0.5, 0.599, 0.601, 0.8, 2.0):
        assert (gradient(c, c) > 0) == (c > S)
        assert (gradient(c, c, swapped=True) > 0) != (c > S)
        assert (gradient(c, S) > 0) is False or abs(gradient(c, S)) < 1e-12  # the student's score must be its own
    assert gradient(S, S) == 0.0


def test_descent_by_exact_scores_ends_at_the_teachers_spread():
    c, frozen = 1.3, 1.3
    for _ in range(100):
        c -= 0.05 * gradient(c, c)
        frozen -= 0.05 * gradient(frozen, 1.3)  # a fake network that does not follow
    assert abs(c - S) < 1e-6
    assert not 0.9 * S < frozen < 1.1 * S


def test_dmd2_as_a_task_learns_the_spread_and_without_turns_of_the_fake_network_it_does_not(monkeypatch):
    def ends(**how) -> float:
        model = scalar(1.2)
        task = DMD2(model, times=Uniform(), gan=0.0, **how)
        play(task, 100, normal, {"student": 0.04, "fake": 0.1})
        return float(model.denoise.net.c.detach().abs())

    assert ends() == pytest.approx(S, rel=0.05)
    monkeypatch.setattr(DMD2, "turns", lambda self, progress: ["student"])
    assert abs(ends() / S - 1) > 0.2


def test_the_loss_of_matching_keeps_its_target_fixed():
    x, real, fake = torch.randn(3, 8, 5, dtype=torch.float64)
    x.requires_grad_()
    (slope,) = torch.autograd.grad(matched(x, real, fake).sum(), x)
    size = (x - real).abs().mean(1, keepdim=True)
    torch.testing.assert_close(slope, ((fake - real) / size / 5).detach())
    loose = (0.5 * (x - (x - (fake - real) / size)).square()).mean(1).sum()  # without the stop-gradient
    (other,) = torch.autograd.grad(loose, x)
    assert (other - slope).abs().max() > 1e-2


# Moments


def test_moments_converge_to_the_datas_variance_and_with_the_sign_swapped_they_diverge(monkeypatch):
    def ends(c: float, steps: int) -> float:
        model = scalar(c)
        play(Moments(model), steps, normal, {"student": 0.02, "auxiliary": 0.1})
        return float(model.denoise.net.c.detach() ** 2 / S**2)

    assert ends(1.0, 250) == pytest.approx(1.0, abs=0.05)
    loss = Moments.loss

    def swapped(self, player, *rest):
        parts = loss(self, player, *rest)
        return {name: -v for name, v in parts.items()} if player == "student" else parts

    monkeypatch.setattr(Moments, "loss", swapped)
    assert abs(ends(0.7, 50) - 1.0) > 0.5


def test_the_posterior_has_the_marginals_of_the_path():
    """Of x0 and z_t that belong together it makes z_s of mean α_s·x0 and variance σ_s², and of covariance α_t/α_s·σ_s² with z_t."""
    x, noise, again = torch.randn(3, 200_000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    at, to = VP().point(0.6), VP().point(0.35)
    z = at.alpha * x + at.sigma * noise
    left = posterior(x, z, at, to, again) - to.alpha * x
    error = 4 / 200_000**0.5
    assert abs(left.mean()) < error and float(left.var() / to.sigma**2) == pytest.approx(1.0, abs=2 * error)
    shared = (left * (z - at.alpha * x)).mean() / (at.alpha / to.alpha * to.sigma**2)
    assert float(shared) == pytest.approx(1.0, abs=4 * error)


# Adversarial


def plane() -> GaussianMixture:
    means = torch.tensor([[1.0, 0.4], [-0.9, 0.9], [0.2, -1.1], [-0.9, -0.5]])
    return GaussianMixture(torch.full((4,), 0.25), means, 0.02 * torch.eye(2).repeat(4, 1, 1))


class Perceptron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, 2)
        )

    def forward(self, x: Tensor, time: Tensor, cond: Cond | None = None) -> Tensor:
        return self.layers(x)


def covered(x: Tensor, data: GaussianMixture) -> int:
    """How many components get at least half of their share of the points."""
    nearest = torch.cdist(x, data.means).argmin(1)
    shares = torch.bincount(nearest, minlength=4) / len(x)
    return int((shares >= 0.5 * data.log_weights.exp()).sum())


def sliced(a: Tensor, b: Tensor) -> float:
    angle = torch.linspace(0, torch.pi, 65)[:-1]
    ways = torch.stack([angle.cos(), angle.sin()])
    return float(((a @ ways).sort(0).values - (b @ ways).sort(0).values).square().mean().sqrt())


def points(data: GaussianMixture, step: int, size: int = 256) -> Batch:
    return Batch(data.sample(size, torch.Generator().manual_seed(step)))


class Spread(nn.Module):
    """Rates numbers by their squares: what tells two centred Gaussians apart."""

    names = ("x",)

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))

    def forward(self, features, label=None) -> Tensor:
        return self.weight * features["x"].square() + self.bias


def test_with_its_critic_add_draws_samples_and_with_the_teacher_alone_means(monkeypatch):
    def ends(steps: int) -> float:
        model = scalar(0.3)
        task = ADD(model, looks=lambda x, noise, batch: {"x": x}, critic=Spread(), r1=0.5, weight=0.1)  # pyright: ignore
        play(task, steps, normal, {"student": 0.02, "critic": 0.05})
        return float(model.denoise.net.c.detach())

    sampling = ends(150)
    monkeypatch.setattr(ADD, "turns", lambda self, progress: ["student"])  # the critic says nothing
    mean = ends(60)
    assert abs(sampling - S) < 0.25 * abs(mean - S), (sampling, mean)


def test_the_teacher_is_asked_about_the_students_sample_noised_again():
    asked = []

    class Spy(nn.Module):
        def forward(self, x, time, cond=None):
            asked.append((x, time))
            return x

    class Five(nn.Module):
        def __init__(self):
            super().__init__()
            self.at = nn.Parameter(torch.tensor(5.0))

        def forward(self, x, time, cond=None):
            return self.at.expand_as(x)

    model = Student(NetDenoiser(Five(), Flow(), "x0", shape=(2,)), lambda: NetDenoiser(Spy(), Flow(), "x0", shape=(2,)))
    task = ADD(model, looks=lambda x, noise, batch: {"x": x}, critic=Spread())  # pyright: ignore[reportArgumentType]
    parts = task.loss("student", points(plane(), 0), Draws(0, 0, 256), NOW)
    ((x, t),) = asked
    left = x - (1 - t)[:, None] * 5.0
    assert float((left / t[:, None]).std()) == pytest.approx(1.0, abs=0.1)  # noise, and nothing of the data
    parts["teacher"].mean().backward()
    assert model.denoise.net.at.grad != 0.0


# Drifting


def clouds(shift: float, n: int = 64) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    x, y = torch.randn(2, n, 2, generator=g, dtype=torch.float64)
    return x, y + torch.tensor([shift, 0.0])


def test_nothing_drifts_between_equal_laws_and_a_shift_is_followed():
    def mean(shift: float) -> tuple[float, float]:
        drifts = []
        for seed in range(40):
            x, y = torch.randn(2, 64, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            y = y + torch.tensor([shift, 0.0])
            drifts.append(field(x, y, x, 0.2 * torch.cdist(x, y).mean()).mean(0)[0])
        each = torch.stack(drifts)
        return float(each.mean()), float(each.std() / 40**0.5)

    still, error = mean(0.0)
    assert abs(still) < 2.5 * error
    moved, error = mean(0.5)
    assert moved > 10 * error and mean(-0.5)[0] < -10 * error


def test_data_and_samples_change_places_and_the_drift_turns_round():
    """V is antisymmetric where no sample meets itself: here the negatives are others."""
    x, y = clouds(0.5)
    z = torch.randn(64, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    everyone = torch.ones(64, 128, dtype=torch.bool)
    own = torch.eye(64, dtype=torch.bool)
    # the mask of oneself falls on the last 64 columns: take it out of both
    there = field(x, y, z, 0.3, everyone & ~torch.cat([own, own], 1))
    back = field(x, z, y, 0.3, everyone & ~torch.cat([own, own], 1))
    torch.testing.assert_close(there, -back, rtol=1e-9, atol=1e-12)
    assert there.abs().mean() > 1e-2


def test_the_sharp_field_is_the_gradient_of_its_potential_and_the_usual_normalisation_has_none():
    x, y = clouds(0.5, 24)
    others = torch.randn(24, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    tau = 0.4

    def sharp(x: Tensor) -> Tensor:
        """Σ k·(y − x)/Σ k♯ for data less the same for the others: written out."""
        v = torch.zeros_like(x)
        for sign, points, hidden in ((1, y, None), (-1, others, torch.eye(len(x)).bool())):
            r = torch.cdist(x, points)
            k = torch.exp(-r / tau)
            if hidden is not None:
                k = k.masked_fill(hidden, 0.0)
            v = v + sign * (k[..., None] * (points - x[:, None])).sum(1) / (k * tau * (r + tau)).sum(1, keepdim=True)
        return v

    free = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(potential(free, y, others, tau).sum(), free)
    torch.testing.assert_close(-slope, sharp(x), rtol=1e-8, atol=1e-10)

    def usual(x: Tensor) -> Tensor:
        k = torch.exp(-torch.cdist(x, y) / tau)
        return (k[..., None] * (y - x[:, None])).sum(1) / k.sum(1, keepdim=True)

    def curl(v: Callable[[Tensor], Tensor]) -> float:
        at = torch.tensor([[0.3, -0.2]], dtype=torch.float64)
        whole = torch.autograd.functional.jacobian(lambda p: v(torch.cat([p, x[1:]]))[0], at)[:, 0]
        return float((whole - whole.T).abs().max())

    assert curl(sharp) < 1e-10 < 1e-3 < curl(usual)


@pytest.mark.parametrize("by", ["paper", "sharp"])
def test_drifting_reaches_every_component(by):
    data = plane()
    torch.manual_seed(0)
    model = Student(NetDenoiser(Perceptron(), Flow(), "x0", shape=(2,)), lambda: data.denoiser(Flow()))
    task = Drifting(model, by=by)
    noise = torch.randn(1000, 2, generator=torch.Generator().manual_seed(1))
    real = data.sample(1000, torch.Generator().manual_seed(2))
    with torch.no_grad():
        before = model.denoise.net(noise, torch.ones(()))
    play(task, 120, partial(points, data), 5e-3)
    with torch.no_grad():
        after = model.denoise.net(noise, torch.ones(()))
    assert covered(after, data) == 4 and covered(before, data) < 4
    assert sliced(after, real) < 0.35 * sliced(before, real)
