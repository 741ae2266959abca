"""The probe sees a network that is off at pure noise or rough in t, and none that is neither; what it chooses ends nearer to the flow."""

import json
import math
from itertools import pairwise

import pytest
import torch
from torch import nn

import reverie as rv
from reverie.core.condition import Cond, Label, Vector
from reverie.core.denoiser import NetDenoiser
from reverie.core.paths import Table
from reverie.core.schedules import VE, Flow
from reverie.guide import cfg
from reverie.solve.auto import FAR, ROUGH, choose, default, suited
from reverie.solve.grids import karras, time
from reverie.solve.probe import EVALUATIONS, Probe, keep, probed, remembered
from reverie.solve.stochastic import SDEDPMpp


class Gaussian(nn.Module):
    """The exact ε, x0 or velocity of N(0, ¼) data in 16 numbers, the first two with an error, any with a ripple in t."""

    def __init__(self, path, kind: str, error: float = 0.0, ripple: float = 0.0, labels: int = 0) -> None:
        super().__init__()
        self.path, self.kind, self.error, self.ripple = path, kind, error, ripple
        self.conditions = {"label": Label(labels)} if labels else {}
        self.scale = nn.Parameter(torch.ones(()))
        self.calls = 0

    def forward(self, x, t, cond=None):
        self.calls += len(x)
        p = self.path.point(t.reshape(-1)[0].double().item())
        x0 = 0.25 * p.alpha / (0.25 * p.alpha**2 + p.sigma**2) * x
        eps = (x - p.alpha * x0) / p.sigma
        wrong = self.error * torch.cos(3.0 * x)
        out = {"eps": eps + wrong, "x0": x0 + wrong}.get(self.kind, eps - x0)
        return self.scale * out * (1.0 + self.ripple * math.sin(300.0 * p.t))


def model(path=None, kind="flow", **how) -> NetDenoiser:
    path = Flow() if path is None else path
    net = Gaussian(path, kind, **how).eval().requires_grad_(False)
    return NetDenoiser(net, path, kind, shape=(16,))


class Waves(Gaussian):
    """The same, each entry with a wave of its own in t: what random Fourier features of that scale leave on an output."""

    def __init__(self, scale: float, size: float) -> None:
        super().__init__(Flow(), "flow")
        self.size = size
        frequency, phase = torch.randn(2, 16, generator=torch.Generator().manual_seed(0)).double()
        self.frequency, self.phase = 2.0 * math.pi * scale * frequency, 2.0 * math.pi * phase

    def forward(self, x, t, cond=None):
        wave = torch.sin(self.frequency * t.reshape(-1)[0].double() + self.phase)
        return super().forward(x, t, cond) + self.size * wave.to(x)


def test_it_sees_what_is_off_and_what_is_rough() -> None:
    fine, off, rough = (probed(m) for m in (model(), model(Table.linear(), "eps", error=0.1), model(ripple=0.05)))
    assert off.far > 0.8 > FAR and off.rough < ROUGH
    assert rough.rough > ROUGH and rough.far < FAR
    assert fine.far < 0.1 and fine.rough < 1e-3
    assert (
        probed(model(Table.linear(), "eps")).far < 0.1
    )  # control: it is the error that is seen, not the kind or the path


def test_a_model_is_asked_once_and_again_when_its_weights_have_changed() -> None:
    denoise = model(labels=3)
    first = rv.sample(denoise, 2, Cond(label=1), steps=5, report=True)[1]
    second = rv.sample(cfg(denoise, 2.0), 2, Cond(label=1), steps=5, report=True)[1]
    assert (first.probe, second.probe) == (EVALUATIONS, 0) and first.evaluations == 5
    assert denoise.net.calls == EVALUATIONS + 2 * 5 + 2 * 2 * 5
    denoise.net.scale.mul_(1.5)
    probed(denoise)
    assert denoise.net.calls == 2 * EVALUATIONS + 2 * 5 + 2 * 2 * 5


def test_it_can_be_switched_off_and_a_sample_depends_on_no_batch() -> None:
    denoise = model(Table.linear(), "eps", error=0.1)
    plain = rv.sample(denoise, 3, solver="default", steps=6, seed=1)
    assert denoise.net.calls == 3 * 6
    solver, grid = default(6, 1.0, 16)
    assert torch.equal(plain, rv.sample(denoise, 3, solver=solver, grid=grid, steps=6, seed=1))
    three, one = (
        rv.sample(denoise, 3, steps=6, seed=1),
        rv.sample(model(Table.linear(), "eps", error=0.1), 1, steps=6, seed=1),
    )
    torch.testing.assert_close(three[:1], one)
    assert not torch.allclose(three, plain)


def test_what_cannot_be_asked_gets_the_default() -> None:
    told = model()
    told.conditions = {"pose": Vector(4)}
    assert probed(told) is None and choose(told, None, None, 10) == default(10, 1.0, 16)
    assert choose(model(), None, None, 10) == suited(Probe(0.0, 0.0), 10, 1.0, 16)


@pytest.mark.parametrize("steps", [10, 20, 40])
def test_a_network_that_is_off_at_pure_noise_ends_where_its_flow_does(steps: int) -> None:
    denoise, path = model(Table.linear(), "eps", error=0.05), Table.linear()
    ends = (2.0 * path.lam(1.0), 7.2)
    x = torch.randn(64, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * path.sigma(1.0)
    exact = rv.sample(denoise, x=x, solver="deis3", grid="karras", steps=600, ends=ends)
    found, usual = (rv.sample(denoise, x=x, solver=solver, steps=steps, ends=ends) for solver in (None, "default"))
    error = lambda out: float((out - exact).norm())  # noqa: E731
    assert error(found) < 0.5 * error(usual)
    assert abs(float(found.std() / exact.std()) - 1.0) < 0.1


def test_a_file_beside_the_weights_is_asked_by_the_next_process_and_only_by_the_same_weights(tmp_path) -> None:
    file, first, again, cast, other = tmp_path / "probe.json", model(), model(), model(), model(ripple=0.05)
    for each, weights in ((first, "a"), (again, "a"), (other, "b")):
        keep(each, file, weights)
    found = probed(first)
    assert json.loads(file.read_text())["of"] == {"weights": "a", "dtype": "torch.float32"}
    assert remembered(again) and probed(again) == found and again.net.calls == 0
    assert rv.sample(again, 2, steps=5, report=True)[1].probe == 0
    keep(cast.to(dtype=torch.float64), file, "a")  # another rounding, another roughness
    assert not remembered(other) and probed(other) != found and other.net.calls == EVALUATIONS
    assert not remembered(cast)
    again.net.scale.mul_(1.5)  # no longer the weights of the file: neither read nor written
    kept = file.read_text()
    assert probed(again) is not None and again.net.calls == EVALUATIONS + 2 * 5
    assert file.read_text() == kept and json.loads(kept)["of"]["weights"] == "b"


@pytest.mark.parametrize("content", ["", "[1]", '{"of": {"weights": "a", "dtype": "torch.float32"}, "far": 0.0}'])
def test_a_file_that_holds_something_else_is_written_anew(tmp_path, content: str) -> None:
    file, denoise = tmp_path / "probe.json", model()
    file.write_text(content)
    keep(denoise, file, "a")
    found = probed(denoise)
    assert denoise.net.calls == EVALUATIONS and json.loads(file.read_text())["far"] == found.far
    assert [each.name for each in tmp_path.iterdir()] == ["probe.json"]


def test_a_folder_that_cannot_be_written_to_is_left_alone(tmp_path) -> None:
    denoise = model()
    keep(denoise, tmp_path / ("too long" * 99), "a")
    assert probed(denoise) is not None and remembered(denoise) and not any(tmp_path.iterdir())


def test_without_the_probe_nothing_is_written(tmp_path) -> None:
    denoise = model()
    keep(denoise, tmp_path / "probe.json", "a")
    rv.sample(denoise, 2, steps=5, solver="default")
    assert denoise.net.calls == 10 and not any(tmp_path.iterdir())


@pytest.mark.parametrize(("steps", "part"), [(10, 0.8), (40, 0.5)])
def test_a_network_that_predicts_clean_data_ends_where_its_flow_does(steps: int, part: float) -> None:
    denoise, ends = model(kind="x0", error=0.05), (-10.0, 9.2)
    x = torch.randn(64, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * Flow().at(-5.0).sigma
    exact = rv.sample(denoise, x=x, solver="unipc3", grid="logsnr", steps=600, ends=ends)
    found, usual = (rv.sample(denoise, x=x, solver=solver, steps=steps, ends=ends) for solver in (None, "default"))
    error = lambda out: float((out - exact).norm())  # noqa: E731
    assert error(found) < part * error(usual)
    assert suited(Probe(0.0, 0.0), steps, 1.0, 16) == default(
        steps, 1.0, 16
    )  # control: of another kind, it is the default


@pytest.mark.parametrize(("steps", "scale"), [(10, 16.0), (20, 4.0)])
def test_a_network_that_is_rough_in_t_ends_where_its_flow_does(steps: int, scale: float) -> None:
    denoise = NetDenoiser(Waves(scale, 0.05).eval().requires_grad_(False), Flow(), "flow", shape=(16,))
    ends = (-10.0, 9.2)
    x = torch.randn(64, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * Flow().at(-5.0).sigma
    exact = rv.sample(denoise, x=x, solver="unipc3", grid="logsnr", steps=600, ends=ends)
    found, usual = (rv.sample(denoise, x=x, solver=solver, steps=steps, ends=ends) for solver in (None, "default"))
    error = lambda out: float((out - exact).norm())  # noqa: E731
    assert error(found) < 0.6 * error(usual)
    assert choose(model(), None, None, steps) != choose(
        denoise, None, None, steps
    )  # control: it is the ripple that decides


def test_fresh_noise_leaves_a_network_that_is_off_no_sooner_than_the_grid_of_karras() -> None:
    solver, grid = choose(model(Table.linear(), "eps", error=0.1), "stochastic", None, 10)
    assert (solver, grid) == (SDEDPMpp(), karras()) and choose(model(), "stochastic", "time", 10)[1] == time()


class Same(nn.Module):
    """Gives back what it gets."""

    def forward(self, x, t, cond=None):
        return x


def test_a_network_that_is_told_the_noise_level_gets_even_steps() -> None:
    """Nearly even in λ, where the default's are long at the ends; the default's below 15."""
    told, plain = (NetDenoiser(Same().eval(), VE(), "flow", shape=(16,), time=time) for time in ("log_sigma", "t"))
    assert probed(told).log and not probed(plain).log and not probed(told).data and probed(model(kind="x0")).data

    def spread(log: bool) -> float:
        grid = suited(Probe(0.0, 0.0, log=log), 20, 1.0, 16)[1]
        moves = [b.lam - a.lam for a, b in pairwise(grid(VE(), 20)[:-1])]
        return max(moves) / min(moves)

    assert spread(True) < 2.0 and spread(False) > 3.0
    assert suited(Probe(0.0, 0.0, log=True), 10, 1.0, 16) == suited(Probe(0.0, 0.0), 10, 1.0, 16)
