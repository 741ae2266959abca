"""Learned variances and the bound as an objective, where the optimum is known: Gaussian data on short chains."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from reverie import guide
from reverie.core.denoiser import NetDenoiser
from reverie.core.errors import InputError
from reverie.core.paths import SCHEDULES, Table
from reverie.core.schedules import Schedule
from reverie.core.times import Steps
from reverie.diffusion import VLB, Denoising, Hybrid
from reverie.diffusion.vlb import History, drawn
from reverie.learn import Batch, Checkpoints, Draws, Moment
from reverie.solve import DDPM, sample, variational_bound

from .conftest import CONFIG, pictures
from .test_loop import interrupt_at, same

NOW = Moment(0, 0, 100)
CHAIN = Table.linear(12, 0.01, 0.4)
SPREAD = 0.5
"""Standard deviation of the data."""


class Known(nn.Module):
    """ε of N(0, SPREAD²) data in closed form, times a gain that is learned, and a place between the variances for each of T steps."""

    conditions: ClassVar = {}

    def __init__(self, path: Schedule, steps: int, gain: float = 1.0) -> None:
        super().__init__()
        self.path, self.steps = path, steps
        self.gain = nn.Parameter(torch.tensor(gain))
        self.place = nn.Parameter(torch.zeros(steps))

    def forward(self, x: Tensor, time: Tensor, cond=None) -> Tensor:
        time = time.expand(len(x))
        point = self.path.point(time.double()).align(x)
        eps = point.sigma / ((point.alpha * SPREAD) ** 2 + point.sigma**2) * x
        place = self.place[self.steps - (time * self.steps).round().long()]
        return torch.cat([self.gain * eps, place[:, None, None, None].expand_as(x)], 1)


def known(gain: float = 1.0) -> NetDenoiser:
    return NetDenoiser(Known(CHAIN, 12, gain), CHAIN, "eps", shape=(1, 4, 4), learned_variance=True)


def data(seed: int, count: int) -> Batch:
    return Batch(SPREAD * Draws(seed, 0, count).normal("data", (1, 4, 4)))


def optimal(task: Hybrid | VLB) -> list[float]:
    """The log of the best variance of each move: β̃ + c²·Var[x0 | x_t], at the last Var[x0 | x_1]."""
    found = []
    for move in task.chain.moves:
        alpha, sigma = move.at.alpha, move.at.sigma
        rest = SPREAD**2 * sigma**2 / (alpha**2 * SPREAD**2 + sigma**2)
        best = rest if move.last else math.exp(move.log_small) + move.pull**2 * rest
        found.append(math.log(best))
    return found


def learned(task: Hybrid | VLB) -> list[float]:
    """The log variance that the network gives each move."""
    fractions = 0.5 * (task.denoise.net.place.detach() + 1.0)
    return [float(move.between(fraction)) for move, fraction in zip(task.chain.moves, fractions, strict=True)]


def learn(task: Denoising, steps: int = 400) -> None:
    net = task.denoise.net
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, steps)
    for step in range(steps):
        parts = task.loss("denoiser", data(step, 256), Draws(0, 256 * step, 256), NOW)
        optimizer.zero_grad()
        sum(part.mean() for part in parts.values()).backward()
        optimizer.step()
        schedule.step()
        task.after_step(NOW)


@pytest.mark.parametrize("objective", [Hybrid, VLB])
def test_the_learned_variance_is_the_best_one(objective: Callable[..., Hybrid | VLB]):
    task = objective(known(), levels=None)
    nn.init.constant_(task.denoise.net.place, -2.0)
    best, before = optimal(task), learned(task)
    learn(task)
    away, left = ([abs(a - b) for a, b in zip(each, best, strict=True)] for each in (before, learned(task)))
    assert max(left) < 0.06 and sum(a > 5 * b and a > 0.06 for a, b in zip(away, left, strict=True)) >= 9


def test_the_simple_objective_leaves_the_variance_where_it_was():
    denoise = known(gain=0.5)
    learn(Denoising(denoise, Steps(12)), steps=60)
    assert not denoise.net.place.any()
    assert denoise.net.gain > 0.8, "and trains the mean"


def test_the_mean_is_held_in_the_hybrids_bound_and_in_no_other():
    batch, rng = data(0, 64), Draws(0, 0, 64)

    def gradients(task: Denoising, part: str) -> tuple[float, float]:
        net = task.denoise.net
        loss = task.loss("denoiser", batch, rng, NOW)[part].mean()
        gain, place = torch.autograd.grad(loss, [net.gain, net.place], allow_unused=True)
        return (0.0 if gain is None else abs(float(gain))), (0.0 if place is None else float(place.abs().sum()))

    gain, place = gradients(Hybrid(known(0.5)), "vlb")
    assert gain == 0.0 and place > 1e-5
    gain, place = gradients(Hybrid(known(0.5)), "mse")
    assert gain > 1e-3 and place == 0.0
    gain, place = gradients(VLB(known(0.5)), "vlb")
    assert gain > 1e-3 and place > 1e-3


def test_the_hybrid_weighs_the_bound_by_a_thousandth():
    """λ·T·L_t, and beside it the loss of the simple objective at the same times."""
    hybrid, simple = Hybrid(known(0.5)), Denoising(known(0.5), Steps(12))
    batch, rng = data(0, 240), Draws(0, 0, 240)
    found = hybrid.loss("denoiser", batch, rng, NOW)
    torch.testing.assert_close(found["mse"], simple.loss("denoiser", batch, rng, NOW)["mse"])
    whole = VLB(known(0.5), importance=False).loss("denoiser", batch, Draws(1, 0, 240), NOW)["vlb"]
    assert float(found["vlb"].detach().mean() / whole.detach().mean()) == pytest.approx(1e-3, rel=0.15)


class Same:
    """One and the same noise for every term."""

    def __init__(self, noise: Tensor) -> None:
        self.noise = noise

    def draw(self, stream, number, shape, span=None) -> Tensor:
        return self.noise


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("levels", [256, None])
@pytest.mark.parametrize("name", SCHEDULES)
def test_each_term_is_that_of_the_variational_bound(name: str, levels: int | None, learned: bool):
    """On every path of a recipe, and all moves in one batch."""
    path = SCHEDULES[name]()

    class Net(nn.Module):
        conditions: ClassVar = {}

        def forward(self, x, time, cond=None):
            out = 0.3 * x
            return torch.cat([out, 0.5 * torch.tanh(x)], 1) if learned else out

    denoise = NetDenoiser(Net(), path, "straight", shape=(1, 2, 2), learned_variance=learned)
    task = VLB(denoise, levels=levels)
    total = len(task.chain)
    x, noise = torch.randint(0, 256, (1, 1, 2, 2)) / 127.5 - 1.0, torch.randn(1, 1, 2, 2)
    variance = "learned" if learned else "small"
    whole = variational_bound(denoise, x, steps=total, levels=levels, variance=variance, tape=Same(noise))
    i = torch.arange(total)
    point = path.point(task.time(i)).align(x.expand(total, 1, 2, 2))
    bits = task.bits(x.expand(total, 1, 2, 2), denoise(point.alpha * x + point.sigma * noise, point), i)
    torch.testing.assert_close(
        bits * 4 * math.log(2.0), torch.cat([whole.steps[0], whole.decoder]), rtol=2e-3, atol=2e-5
    )


def test_every_estimate_of_the_bound_is_unbiased_and_importance_sampling_varies_less():
    denoise, images = known(gain=0.8), data(5, 1).x.expand(4000, -1, -1, -1)
    batch = Batch(images)

    def terms(task: VLB, seed: int) -> Tensor:
        return task.loss("denoiser", batch, Draws(seed, 0, 4000), NOW)["vlb"].detach()

    uniform, weighted = VLB(denoise, importance=False), VLB(denoise)
    assert torch.equal(weighted.history.probabilities(), torch.full((12,), 1 / 12, dtype=torch.float64))
    assert torch.equal(terms(uniform, 0), terms(weighted, 0)), "uniform until it knows every move"
    weighted.after_step(NOW)
    p = weighted.history.probabilities()
    assert p.sum() == pytest.approx(1.0) and p.max() > 3 * p.min()
    with torch.no_grad():
        whole = variational_bound(denoise, images, steps=12, variance="learned", seed=1)
    bits = (whole.total - whole.prior) / (16 * math.log(2.0))
    estimates = {"uniform": terms(uniform, 2), "importance": terms(weighted, 2)}
    estimates["two evaluations"] = weighted.bound(batch, Draws(3, 0, 4000)) - whole.prior / (16 * math.log(2.0))
    for name, each in estimates.items():
        error = float((bits.var() / len(bits) + each.var() / len(each)).detach().sqrt())
        assert abs(float(each.mean() - bits.mean())) < 4 * error, name
        assert error < 0.05 * float(bits.mean())
    assert estimates["importance"].var() < 0.5 * estimates["uniform"].var()


def test_the_history_holds_the_last_ten_of_each_move():
    history = History(3)
    history.enter(torch.tensor([0] * 25 + [1] * 10), torch.cat([torch.arange(25.0), torch.full((10,), 2.0)]))
    assert history.count.tolist() == [25, 10, 0]
    assert sorted(history.losses[0].tolist()) == list(range(15, 25))
    assert torch.equal(history.probabilities(), torch.full((3,), 1 / 3, dtype=torch.float64))
    history.enter(torch.full((10,), 2), torch.full((10,), 4.0))
    size = torch.tensor([(sum(k * k for k in range(15, 25)) / 10) ** 0.5, 2.0, 4.0], dtype=torch.float64)
    torch.testing.assert_close(history.probabilities(), 0.999 * size / size.sum() + 0.001 / 3)


def test_uniforms_choose_by_probability():
    p = torch.tensor([0.2, 0.0, 0.5, 0.3], dtype=torch.float64)
    u = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    assert torch.bincount(drawn(p, u), minlength=4).tolist() == [200, 0, 500, 300]


class Small(nn.Module):
    """A perceptron on 4x4 pictures that gives a variance too."""

    conditions: ClassVar = {}

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(17, 32), nn.Linear(32, 32)

    def forward(self, x: Tensor, time: Tensor, cond=None) -> Tensor:
        h = torch.cat([x.flatten(1), time.expand(len(x))[:, None]], 1)
        return self.out(self.inner(h).tanh()).view(-1, 2, 4, 4)


def small() -> VLB:
    torch.manual_seed(0)
    denoise = NetDenoiser(Small(), CHAIN, "eps", shape=(1, 4, 4), learned_variance=True)
    return VLB(denoise, drop=0.0, held_out=Batch(pictures(0, 48).x))


def unlabelled(feed):
    return lambda start, count: Batch(feed(start, count).x)


def test_importance_sampling_resumes_bitwise(run, tmp_path, monkeypatch):
    alone = run("a", task=small(), feed=unlabelled(pictures))
    assert alone["model/history.count"].sum() == 400 and alone["model/history.count"].min() >= 10
    run("b", task=small(), feed=unlabelled(interrupt_at(200)))
    stopped = Checkpoints(tmp_path / "b" / "checkpoints").latest()
    assert stopped is not None and stopped.state["images"] == 208
    assert same(alone, run("b", task=small(), feed=unlabelled(pictures)))
    run("c", task=small(), feed=unlabelled(interrupt_at(200)))
    with monkeypatch.context() as forgetful:
        forgetful.setattr(History, "load_state_dict", lambda *_: None)
        assert not same(alone, run("c", task=small(), feed=unlabelled(pictures))), "the history decides what is drawn"


def test_micro_batches_enter_the_history_as_one_batch(run):
    whole = run("a", task=small(), feed=unlabelled(pictures))
    parts = run("b", replace(CONFIG, micro_batch=5), task=small(), feed=unlabelled(pictures))
    assert torch.equal(whole["model/history.count"], parts["model/history.count"])
    torch.testing.assert_close(whole["model/history.losses"], parts["model/history.losses"], rtol=1e-3, atol=1e-4)


def test_the_log_and_validation_speak_of_the_bound(run, tmp_path):
    run("a", task=small(), feed=unlabelled(pictures))
    entries = [json.loads(line) for line in (tmp_path / "a" / "log.jsonl").read_text().splitlines()]
    assert all({"loss", "vlb"} <= set(e) for e in entries if "validation" not in e)
    found = [e["validation"] for e in entries if "validation" in e]
    assert all(e["loss"] == e["vlb"] for e in found) and found[-1]["vlb"] < 0.9 * found[0]["vlb"]


class Half(nn.Module):
    """A network without what it says of the variance."""

    conditions: ClassVar = {}

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, time: Tensor, cond=None) -> Tensor:
        return self.net(x, time, cond).chunk(2, 1)[0]


def test_ddpm_by_name_draws_with_the_learned_variance():
    denoise = known()
    with torch.no_grad():
        denoise.net.place.fill_(1.0)
        drawn = {
            solver: sample(denoise, n=2, solver=solver, steps=12, grid="time", seed=0)
            for solver in ("ddpm", DDPM("learned"), DDPM("large"), DDPM("small"))
        }
        fixed = NetDenoiser(Half(denoise.net), CHAIN, "eps", shape=(1, 4, 4))
        plain = sample(fixed, n=2, solver="ddpm", steps=12, grid="time", seed=0)
    torch.testing.assert_close(drawn["ddpm"], drawn[DDPM("learned")])
    torch.testing.assert_close(drawn["ddpm"], drawn[DDPM("large")])
    assert (drawn["ddpm"] - drawn[DDPM("small")]).abs().mean() > 0.05
    torch.testing.assert_close(plain, drawn[DDPM("small")])


def test_windows_have_no_one_variance_and_draw_with_the_small_one():
    canvas = guide.windows(known(), (6, 6), 2)
    with torch.no_grad():
        drawn = [sample(canvas, n=1, solver=s, steps=12, grid="time", seed=0) for s in ("ddpm", DDPM("small"))]
    torch.testing.assert_close(*drawn)


def test_what_cannot_be_trained_is_said():
    with pytest.raises(InputError, match="the network has none"):
        Hybrid(NetDenoiser(nn.Identity(), CHAIN, "eps", shape=(1, 4, 4)))
    with pytest.raises(InputError, match="does not determine"):
        VLB(NetDenoiser(nn.Identity(), SCHEDULES["cosine"](), "eps", shape=(1, 4, 4)))
