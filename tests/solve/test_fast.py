"""The faster path: compiled only where it pays, the same samples either way, batches that fit, nothing left behind."""

import shutil

import pytest
import torch
from torch import nn
from torch.profiler import profile

from reverie.core.condition import Cond
from reverie.core.denoiser import NetDenoiser
from reverie.core.schedules import Flow
from reverie.guide import cfg
from reverie.nets import DiTConfig, UNetConfig, build, winograd
from reverie.solve import fast, sample


def model(size=8):
    torch.manual_seed(0)
    net = build(
        UNetConfig(width=8, multipliers=(1, 2), blocks=1, attention=(2,), heads=2), channels=1, size=size, classes=3
    )
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return NetDenoiser(net.eval(), Flow(), shape=(1, size, size))


def test_compiling_pays_only_for_long_runs_of_slow_networks():
    assert not fast.worthwhile(seconds=0.01, evaluations=30, layers=100)
    assert fast.worthwhile(seconds=10.0, evaluations=1000, layers=100)


def test_samples_are_the_same_compiled_and_nothing_stays(monkeypatch):
    denoise, calls = model(), []
    plain_compile = torch.compile

    def compile(function):
        calls.append(function)
        return plain_compile(function, backend="eager")

    monkeypatch.setattr(torch, "compile", compile)
    draw = lambda: sample(cfg(denoise, 2.0), 2, Cond(label=1), steps=3, seed=0)  # noqa: E731
    with torch.no_grad():
        expected = draw()
        assert calls == []  # too short to pay
        monkeypatch.setattr(fast, "PREPARATION", 0.0)
        torch.testing.assert_close(draw(), expected)
        torch.testing.assert_close(draw(), expected)
    assert len(calls) == 1  # made once, kept for the second run
    assert denoise.net._compiled_call_impl is None
    draw()  # with gradients: plain
    assert len(calls) == 1


class Small(nn.Module):
    """Two layers: soon compiled."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(17, 32), nn.Linear(32, 16)

    def forward(self, x, time, cond=None):
        h = torch.cat([x.flatten(1), time.expand(len(x))[:, None]], dim=1)
        return self.out(self.inner(h).sin()).view_as(x)


@pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("c++") is None, reason="torch.compile needs a C++ compiler"
)
def test_a_compiler_makes_the_code_that_a_long_run_is_drawn_with(monkeypatch):
    """Nothing stands in for the compiler: the profile of a run shows whose code drew it."""
    torch._dynamo.reset()
    denoise = NetDenoiser(Small().eval(), Flow(), shape=(1, 4, 4))

    def draw():
        with profile() as seen:
            images = sample(denoise, 2, steps=3, seed=0)
        return images, sum(event.count for event in seen.key_averages() if "CompiledFxGraph" in event.key)

    with torch.no_grad():
        expected, calls = draw()
        assert calls == 0  # too short to pay
        monkeypatch.setattr(fast, "PREPARATION", 0.0)
        for _ in range(2):
            images, calls = draw()
            assert calls >= 3  # a step
            torch.testing.assert_close(images, expected)
    assert draw()[1] == 0  # with gradients: plain
    torch._dynamo.reset()


def test_without_a_compiler_it_runs_plain(monkeypatch):
    denoise, tries = model(), []

    def broken(function):
        tries.append(function)

        def call(*args):
            raise RuntimeError("no compiler")

        return call

    with torch.no_grad():
        expected = sample(denoise, 2, steps=2)
        monkeypatch.setattr(torch, "compile", broken)
        monkeypatch.setattr(fast, "PREPARATION", 0.0)
        assert torch.equal(sample(denoise, 2, steps=2), expected)
        assert torch.equal(sample(denoise, 2, steps=2), expected)
    assert len(tries) == 1  # it does not try again


def test_filters_are_kept_for_a_run_and_no_longer(monkeypatch):
    torch.manual_seed(0)
    config = UNetConfig(width=128, multipliers=(1,), blocks=1, attention=(), heads=2)
    net = build(config, channels=1, size=16)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    denoise, made = NetDenoiser(net.eval(), Flow(), shape=(1, 16, 16)), []
    filters = winograd.filters
    monkeypatch.setattr(winograd, "filters", lambda weight: made.append(1) or filters(weight))
    wide = sum(isinstance(layer, winograd.Conv3x3) and layer.wide for layer in net.modules())
    draw = lambda: sample(denoise, 1, steps=3, seed=0)  # noqa: E731
    assert wide > 4
    with torch.no_grad():
        images = draw()
        assert len(made) == wide  # once for all steps
        net.requires_grad_(False)
        for parameter in net.parameters():
            parameter.data.mul_(1.05)
        assert (draw() - images).abs().max() > 1e-3 and len(made) == 2 * wide  # other weights are seen
        monkeypatch.setattr(fast, "available", lambda device: 1000)
        few = len(made)
        torch.testing.assert_close(draw(), draw())
        assert len(made) == few  # no memory to keep them, too few tiles to make them at each step
        monkeypatch.setattr(winograd.Conv3x3, "wide", False)
        plain = draw()
        monkeypatch.undo()
        torch.testing.assert_close(draw(), plain, rtol=1e-4, atol=1e-4)
    assert all(layer.kept is None for layer in net.modules() if isinstance(layer, winograd.Conv3x3))


def test_guidance_is_one_call_of_the_network_a_step():
    denoise, rows = model(), []
    denoise.net.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    with torch.inference_mode():
        sample(cfg(denoise, 2.0), 3, Cond(label=1), steps=4, seed=0)
        assert rows == [6] * 4
        rows.clear()
        sample(denoise, 3, Cond(label=1), steps=4, seed=0)
        assert rows == [3] * 4


def test_batches_fit_into_memory(monkeypatch):
    denoise = model(16)
    with torch.no_grad():
        each = fast.footprint(denoise, None)
        assert (
            4 * 8 * 16 * 16 * 3 < each < 100 * 4 * 8 * 16 * 16
        )  # a few feature maps at full resolution, not all there ever are
        assert fast.fitting(denoise, None, 1000) == fast.LARGEST
        monkeypatch.setattr(fast, "SMALL", 0)
        monkeypatch.setattr(fast, "available", lambda device: 4 * 5 * each)
        assert fast.fitting(denoise, None, 1000) == 5
        assert fast.fitting(denoise, None, 3) == 3
        batched = sample(denoise, 20, steps=2)
        monkeypatch.undo()
        torch.testing.assert_close(batched, sample(denoise, 20, steps=2, batch_size=20), rtol=1e-4, atol=1e-5)
    assert fast.fitting(denoise, None, 1000) == 1000  # with gradients


@pytest.mark.parametrize("batch", [1, 4])
def test_what_an_evaluation_takes_is_what_it_does_take(batch):
    """The peak found without computing is that of a real evaluation, sample for sample."""
    torch.manual_seed(0)
    net = build(DiTConfig(patch=2, width=32, depth=2, heads=2), channels=1, size=8, classes=None)
    denoise = NetDenoiser(net, Flow(), shape=(1, 8, 8))
    with torch.no_grad(), fast._Live() as live:
        net(torch.zeros(batch, 1, 8, 8), torch.tensor(0.5))
    assert fast.footprint(denoise, None) == pytest.approx(live.peak / batch, rel=0.15)
