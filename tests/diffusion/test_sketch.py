"""Sketch guidance: the step that is taken, what an edge predictor learns of a trained model's features, and discs drawn along lines."""

import math

import pytest
import torch

import reverie as rv
from reverie.core.batch import Batch, DataSpec
from reverie.core.condition import Label
from reverie.core.denoiser import NetDenoiser
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.schedules import Flow
from reverie.core.task import Moment
from reverie.core.tensors import combine
from reverie.core.times import Uniform
from reverie.data import TensorSet
from reverie.diffusion.conditioned import SketchConfig
from reverie.diffusion.config import DenoisingConfig
from reverie.diffusion.hints import edges
from reverie.diffusion.sketch import EdgePredictor, Sketcher, Sketching, sketch
from reverie.nets import DiTConfig, UNetConfig, taps

from ..guide import discs

NETS = {
    "unet": UNetConfig(width=16, multipliers=(1, 2), blocks=1, attention=(2,), heads=2, groups=4),
    "dit": DiTConfig(patch=2, width=16, depth=2, heads=2),
}
X = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(3))
LINES = (torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(4)) > 0.7).float()
LABELS = rv.Cond(label=[0, 1, 2])


def model(name: str) -> NetDenoiser:
    torch.manual_seed(0)
    net = rv.nets.build(NETS[name], channels=1, size=8, classes=3)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return NetDenoiser(net.eval().requires_grad_(False), Flow(), shape=(1, 8, 8))


@pytest.mark.parametrize("name", NETS)
def test_the_score_is_led_down_the_slope_by_beta_times_its_length(name: str):
    base = model(name)
    net = EdgePredictor(base, width=8)
    led, plain = sketch(base, net, LINES, 0.7)(X, 0.8, LABELS), base(X, 0.8, LABELS)
    x = X.clone().requires_grad_()
    features = taps.features(base, net.sites, x, 0.8, LABELS)
    error = (net(features, 0.8) - LINES).square().flatten(1).sum(1)
    (slope,) = torch.autograd.grad(error.sum(), x)
    push, length = led.score - plain.score, plain.score.flatten(1).norm(dim=1)
    torch.testing.assert_close(push.flatten(1).norm(dim=1), 0.7 * length, rtol=1e-3, atol=0)
    aligned = torch.cosine_similarity(push.flatten(1), -slope.flatten(1), dim=1)
    assert (aligned > 0.999).all()
    other = sketch(base, net, LINES.flip(0), 0.7)(X, 0.8, LABELS).score - plain.score
    assert torch.cosine_similarity(other.flatten(1), -slope.flatten(1), dim=1)[[0, 2]].max() < 0.99  # another sketch


@pytest.mark.parametrize("name", NETS)
def test_where_it_does_not_lead_the_model_is_as_it_is(name: str):
    base = model(name)
    net = EdgePredictor(base, width=8)
    plain = base(X, 0.8, LABELS).out
    assert torch.equal(sketch(base, net, LINES, 0.0)(X, 0.8, LABELS).out, plain)
    late = sketch(base, net, LINES, 1.0)(X, 0.2, LABELS)
    assert torch.equal(late.out, base(X, 0.2, LABELS).out)
    everywhere = sketch(base, net, LINES, 1.0, (-math.inf, math.inf))(X, 0.2, LABELS)
    assert (everywhere.out - late.out).abs().amax() > 1e-3
    each = sketch(base, net, LINES, 1.0)(X, torch.tensor([0.8, 0.2, 0.8]), LABELS)
    torch.testing.assert_close(each.out[1], late.out[1], atol=1e-5, rtol=0)
    torch.testing.assert_close(each.out[0], sketch(base, net, LINES, 1.0)(X, 0.8, LABELS).out[0], atol=1e-4, rtol=1e-4)
    assert sketch(base, net, LINES, 1.0)(X, 1.0, LABELS).out.isfinite().all()  # pure noise


def test_guided_it_looks_at_the_branch_that_is_told():
    base = model("unet")
    net = EdgePredictor(base, width=8)
    led = sketch(rv.guide.cfg(base, 3.0), net, LINES)(X, 0.8, LABELS)
    push = led.score - rv.guide.cfg(base, 3.0)(X, 0.8, LABELS).score
    alone = sketch(base, net, LINES)(X, 0.8, LABELS).score - base(X, 0.8, LABELS).score
    assert (torch.cosine_similarity(push.flatten(1), alone.flatten(1), dim=1) > 0.999).all()


@pytest.fixture(scope="module")
def taught() -> Sketcher:
    """The edge predictor of the trained painter of discs; a few seconds."""
    base, rng = discs.load(), torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = Sketcher(base, EdgePredictor(base, width=32))
    task = Sketching(model, Uniform(), drop=0.0)
    optimizer = torch.optim.Adam(model.net.parameters(), 3e-3)
    for step in range(80):
        x0, words = discs.pictures(24, rng)
        loss = task.loss("sketch", Batch(x0, words), Draws(0, 24 * step, 24), Moment(step, 0, 1))["mse"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.net.requires_grad_(False)
    return model


def test_features_at_noise_tell_the_edges_of_the_picture(taught: Sketcher):
    x0, words = discs.pictures(32, torch.Generator().manual_seed(9))
    point = taught.base.schedule.point(0.4)
    x = combine((point.alpha, point.sigma), (x0, torch.randn(x0.shape, generator=torch.Generator().manual_seed(1))))
    features = taps.record(taught.base, taught.net.sites)(x, point, words).features
    found, lines = taught.net(features, point.t), edges(x0)
    error, none = (found - lines).square().mean(), (lines - lines.mean()).square().mean()
    assert error < 0.6 * none < (found - lines.roll(1, 0)).square().mean()  # those of another picture are not told


def test_discs_are_drawn_along_the_lines(taught: Sketcher):
    first, second = torch.tensor([0, 0, 1, 1, 2, 2]).repeat(2), torch.tensor([1, 2, 0, 2, 0, 1]).repeat(2)
    goal = discs.pictures(12, torch.Generator().manual_seed(5))[0]
    lines = edges(goal)

    def agrees(denoise, with_lines: torch.Tensor) -> float:
        """How well the edges of what is drawn follow lines: the cosine of both about their means."""
        drawn = edges(rv.sample(denoise, 12, discs.text(first, second), "euler", 16, seed=0))
        a, b = (v.flatten(1) - v.flatten(1).mean(1, keepdim=True) for v in (drawn, with_lines))
        return torch.cosine_similarity(a, b, dim=1).mean().item()

    led, free = agrees(taught(lines), lines), agrees(taught.base, lines)
    assert led > free + 0.2
    assert agrees(taught(lines.roll(1, 0)), lines) < led - 0.2  # the control: along the lines of another


def test_a_run_of_it_makes_both_and_learns_the_predictor_alone():
    spec = DataSpec((1, 8, 8), {"label": Label(3)}, ("a", "b", "c"), "made")
    config = SketchConfig(base="runs/base", model=DenoisingConfig(net=NETS["unet"]), width=8)
    model = config.build(spec, 0)
    data = TensorSet(X.clamp(-1, 1), torch.tensor([0, 1, 2]), classes=("a", "b", "c"))
    task = config.task(model, data, data, config.Sample(), 0)
    before = {name: value.clone() for name, value in model.base.net.state_dict().items()}
    loss = task.loss("sketch", data.batch(range(3)), Draws(0, 0, 3), Moment(0, 0, 1))["mse"]
    loss.mean().backward()
    assert all(p.grad is not None for p in model.net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.base.net.state_dict().items())
    assert set(config.modules(model)) == {"sketch"} and config.describe(model, spec)["base"] == model.net.base
    assert math.isfinite(task.validate()["loss"])  # pyright: ignore[reportArgumentType]


def test_mistakes_are_named():
    base = model("unet")
    net = EdgePredictor(base, width=8)
    with pytest.raises(InputError, match=r"a sketch is \(n, 1, 8, 8\): got \(3, 1, 4, 4\)"):
        sketch(base, net, LINES[:, :, :4, :4])
    with pytest.raises(InputError, match="numbers 0 to 1: got 0 to 2"):
        sketch(base, net, 2.0 * LINES)
    with pytest.raises(InputError, match="edge predictor was trained on a model of other weights"):
        sketch(model("dit"), net, LINES)
    with pytest.raises(InputError, match=r"no site 'blocks.9'"):
        EdgePredictor(model("dit"), ["blocks.9"])
    with torch.no_grad(), pytest.raises(InputError, match="needs gradients"):
        sketch(base, net, LINES)(X, 0.8, LABELS)
