"""What is exact of the flow map methods: identities of maps that are known, losses that vanish at them, and wrong variants that do not."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from reverie.core.batch import Batch
from reverie.core.draws import Draws
from reverie.core.paths import EDM, Trigonometric
from reverie.core.schedules import VP, Cosine, Flow
from reverie.core.task import Moment
from reverie.distill import flow_config as settings
from reverie.distill.consistency import CD, ICT, doubling, scales
from reverie.distill.imm import IMM
from reverie.distill.mapping import Mapping
from reverie.distill.meanflow import MeanFlow
from reverie.distill.scm import SCM
from reverie.distill.shortcut import Shortcut
from reverie.distill.tvm import TVM
from reverie.solve import GaussianMap

from .maps import MEAN, STD, exact_student, gaussian, line, quantile_map

LATE = Moment(90, 900, 1000)


def batch(n: int = 64) -> Batch:
    return Batch(gaussian().sample(n, torch.Generator().manual_seed(0)), None, {})


def velocity(t: float, x: Tensor) -> Tensor:
    return line().denoiser(Flow())(x, t).linear(-1.0, 1.0)


def test_the_quantile_map_is_the_flow():
    """Composed, the same; its derivative in s is the velocity there; and invariant along the flow."""
    x, h = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None], 1e-5
    t, s = 0.8, 0.3
    z = quantile_map(line(), x, t, s)
    assert (quantile_map(line(), quantile_map(line(), x, t, 0.5), 0.5, s) - z).abs().max() < 1e-12
    ends = (quantile_map(line(), x, t, s + h) - quantile_map(line(), x, t, s - h)) / (2 * h)
    assert (ends - velocity(s, z)).abs().max() < 1e-8
    v = velocity(t, x)
    begins = (quantile_map(line(), x + h * v, t + h, s) - quantile_map(line(), x - h * v, t - h, s)) / (2 * h)
    assert begins.abs().max() < 1e-8
    backwards = (quantile_map(line(), x - h * v, t + h, s) - quantile_map(line(), x + h * v, t - h, s)) / (2 * h)
    assert backwards.abs().max() > 0.1


def test_the_mean_velocity_of_the_quantile_map_obeys_meanflow_and_shortcut():
    x, h, t, s = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None], 1e-5, 0.8, 0.3

    def u(x: Tensor, t: float, s: float) -> Tensor:
        return (x - quantile_map(line(), x, t, s)) / (t - s)

    v = velocity(t, x)
    slope = (u(x + h * v, t + h, s) - u(x - h * v, t - h, s)) / (2 * h)
    assert (u(x, t, s) + (t - s) * slope - v).abs().max() < 1e-8
    assert (u(x, t, s) - (t - s) * slope - v).abs().max() > 0.1
    m = 0.5 * (t + s)
    first = u(x, t, m)
    halves = 0.5 * (first + u(x - (t - m) * first, m, s))
    assert (halves - u(x, t, s)).abs().max() < 1e-12
    assert (0.5 * (first + u(x, m, s)) - u(x, t, s)).abs().max() > 0.01  # the second half from where the first began
    ends = (u(x, t, s + h) - u(x, t, s - h)) / (2 * h)
    assert (u(x, t, s) - (t - s) * ends - velocity(s, quantile_map(line(), x, t, s))).abs().max() < 1e-8  # TVM


def test_the_network_of_the_gaussian_is_its_map():
    model, x = exact_student(), torch.randn(5, 2, dtype=torch.float64)
    exact = GaussianMap(gaussian(), Flow())
    for t, s in ((1.0, 0.0), (0.7, 0.2), (0.4, 0.4)):
        assert (model(x, t, s) - exact(x, t, s)).abs().max() < 1e-12


METHODS = {
    "meanflow": (MeanFlow, settings.MeanFlowConfig(apart=1.0, power=0.0), True),
    "shortcut": (Shortcut, settings.ShortcutConfig(bootstrapped=0.8, levels=12), True),
    "imm": (IMM, settings.IMMConfig(halvings=18), True),
    "tvm": (TVM, settings.TVMConfig(), True),
    "cd": (CD, settings.ConsistencyConfig(scales=300), False),
    "scm": (SCM, settings.SCMConfig(), False),
}
NEAR = {"imm": 1e-12, "cd": 1e-12, "shortcut": 1e-7}
"""What steps of Heun's method leave, and the shortest leap, which is none."""


def loss(name: str, gain: float = 1.0, **changes) -> tuple[float, float]:
    """The loss of a method at the exact map times a gain, and its slope in the gain."""
    kind, config, told = METHODS[name]
    model = exact_student(told)
    model.denoise.net.gain.data.fill_(gain)
    task: Mapping = kind(model, replace(config, **changes))
    if hasattr(task, "slow"):
        task.slow.denoise.net.gain.data.fill_(gain)
    value = sum(v.mean() for v in task.loss("student", batch(), Draws(0, 0, 64), LATE).values())
    (slope,) = torch.autograd.grad(value, model.denoise.net.gain)
    return float(value.detach()), float(slope)


@pytest.mark.parametrize("name", METHODS)
def test_the_loss_vanishes_at_the_exact_map_and_nowhere_near(name):
    value, slope = loss(name)
    near = NEAR.get(name, 1e-12)
    assert abs(value) < near and abs(slope) < 10 * near**0.5
    off = [loss(name, gain) for gain in (0.9, 1.1)]
    assert all(v > 10 * near for v, _ in off) and off[0][1] < 0.0 < off[1][1]


def reversed_times(self: Mapping, x: Tensor, t: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    dx, dt = ALONG(self, x, t, v)
    return dx, -dt


def still(self: Mapping, x: Tensor, t: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    dx, dt = ALONG(self, x, t, v)
    return torch.zeros_like(dx), dt


ALONG = Mapping.along


@pytest.mark.parametrize("name", ["meanflow", "scm", "tvm"])
@pytest.mark.parametrize("wrong", [reversed_times, still])
def test_a_wrong_tangent_is_seen(name, wrong, monkeypatch):
    if name == "tvm" and wrong is still:
        return  # the state does not move where only the end does
    monkeypatch.setattr(Mapping, "along", wrong)
    value, slope = loss(name)
    assert value > 1e-3 or abs(slope) > 1e-3


@pytest.mark.parametrize("name", ["meanflow", "shortcut", "tvm", "imm"])
def test_swapped_times_are_seen(name, monkeypatch):
    right = Mapping.mean_velocity
    monkeypatch.setattr(Mapping, "mean_velocity", lambda self, x, t, s, cond: right(self, x, s, t, cond))
    assert loss(name)[0] > 1e-4


def test_the_targets_keep_no_gradient():
    """The slope of MeanFlow's loss is that of the regression on a fixed target, not of the whole squared residual."""
    h, gain = 1e-5, 1.2
    whole = (loss("meanflow", gain + h)[0] - loss("meanflow", gain - h)[0]) / (2 * h)
    model = exact_student()
    model.denoise.net.gain.data.fill_(gain)
    task = MeanFlow(model, METHODS["meanflow"][1])
    rng = Draws(0, 0, 64)
    t, s = task.leaps(rng)
    x = task.noised(*task.pair(batch(), rng), t)
    gap = (t - s)[:, None]
    u = task.mean_velocity(x, t, s, None).detach()
    v = task.velocity(x, t, None, (x, x))
    ahead, behind = (task.mean_velocity(x + d * v, t + d, s, None).detach() for d in (h, -h))
    residual = u - (v - gap * (ahead - behind) / (2 * h))
    expected = float((2.0 * residual * u / gain).sum(1).mean())
    found = loss("meanflow", gain)[1]
    assert abs(found - expected) < 1e-6 * abs(expected) < abs(whole - expected) / 100


@pytest.mark.parametrize("path", [Flow(), VP(), Cosine(), EDM(), Trigonometric()], ids=lambda p: type(p).__name__)
def test_tangents_are_those_of_the_path(path):
    """Along x0 and ε that are fixed, per unit of τ, against differences."""
    task = MeanFlow(exact_student(), settings.MeanFlowConfig())
    task.schedule = task.model.schedule = path
    x0, noise = torch.randn(2, 4, 2, dtype=torch.float64)
    t, h = torch.tensor([0.2, 0.5, 0.7, 0.9], dtype=torch.float64), 1e-6
    dx, dt = task.along(task.noised(x0, noise, t), t, noise - x0)
    taus = path.point(t + h).tau - path.point(t - h).tau
    assert (dt - 2 * h / taus).abs().max() < 1e-6 * dt.abs().max()
    moved = (task.noised(x0, noise, t + h) - task.noised(x0, noise, t - h)) / taus[:, None]
    assert (dx - moved).abs().max() < 1e-6 * moved.abs().max()


@pytest.mark.parametrize("path", [Flow(), VP(), EDM()], ids=lambda p: type(p).__name__)
def test_the_tangent_of_scm_is_the_derivative_of_f(path):
    """``cos φ·df/dφ`` of any network against differences along the line of x0 and ε (the paper's eq. 6)."""
    model = exact_student(False)
    model.denoise.net.gain.data.fill_(1.3)
    task = SCM(model, settings.SCMConfig(variant="sct"))
    task.schedule = model.schedule = model.denoise.schedule = path
    x0, noise = torch.randn(2, 4, 2, dtype=torch.float64)
    t, h = torch.tensor([0.3, 0.5, 0.7, 0.9], dtype=torch.float64), 1e-6

    def f(t: Tensor) -> Tensor:
        angle, point = task.angle(t)[:, None], path.point(t).align(x0)
        x = task.noised(x0, noise, t)
        z = x / (point.alpha**2 + (point.sigma / task.std) ** 2).sqrt()
        return angle.cos() * z - angle.sin() * task.std * task.velocity_of(x, t, None)

    with torch.no_grad():
        slope = (f(t + h) - f(t - h)) / (task.angle(t + h) - task.angle(t - h))[:, None]
        _, g = task.tangent(task.noised(x0, noise, t), t, None, noise - x0, 1.0)
    assert (g - task.angle(t).cos()[:, None] * slope).abs().max() < 1e-7
    assert (g + task.angle(t).cos()[:, None] * slope).abs().max() > 1e-2


def test_the_gaussians_consistency_function():
    """``f = m + (x − (1 − t)m)·√(v/A(t))``, the paper's √((s² + ε²)/(s² + t²)) on its path; zero tangent, and f(x, 0) = x."""
    model, x = exact_student(False), torch.randn(4, 2, dtype=torch.float64)
    expected = MEAN + x * math.sqrt(STD**2)
    assert (model(x, 1.0, 0.0) - expected).abs().max() < 1e-12
    assert model(x, 0.0, 0.0) is x
    task, t = SCM(model, settings.SCMConfig()), torch.tensor([0.1, 0.4, 0.8, 0.99], dtype=torch.float64)
    _, g = task.tangent(x, t, None, task.velocity(x, t, None, (x, x)), 1.0)
    assert g.abs().max() < 1e-10


def test_curricula():
    steps = [k / 400_000 for k in range(0, 400_001, 50_000)]
    assert [doubling(f, 10, 1280) for f in steps] == [11, 21, 41, 81, 161, 321, 641, 1281, 1281]
    assert scales(0.0, 2, 150) == 2 and scales(1.0, 2, 150) == 151
    task = ICT(exact_student(False), settings.ConsistencyConfig(variant="ict"))
    further, nearer = task.levels(Draws(0, 0, 512), LATE)
    assert (further > nearer).all() and further.median() < 2.0 < further.max()
