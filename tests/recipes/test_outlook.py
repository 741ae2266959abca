"""What is said and chosen before the first step holds afterwards."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from reverie import bridge, nets
from reverie.core import devices
from reverie.core.denoiser import NetDenoiser
from reverie.core.schedules import Flow
from reverie.nets.presets import for_pictures
from reverie.nets.prior import Prior
from reverie.recipes import outlook, sources, training
from reverie.recipes.outlook import Pace, fitted
from reverie.recipes.recipe import Recipe
from reverie.recipes.training import train


def test_tensors_that_are_kept_are_counted_once_and_weights_are_not():
    layer, x = torch.nn.Linear(8, 16), torch.randn(10, 8)
    with outlook._saved(list(layer.parameters())) as kept:
        y = torch.tanh(layer(x))
        z = (y * y).sum()
    assert sum(kept.values()) == x.nbytes + y.nbytes
    z.backward()
    assert layer.weight.grad is not None


def test_averages_of_further_widths_take_memory(tmp_path):
    recipe = replace(Recipe(), data=replace(Recipe().data, name="digits8"))
    data = sources.load(recipe)
    model = training.make(sources.resolve(recipe, data, data), data, data, tmp_path)
    weights = sum(p.nbytes for p in model.model.net.parameters())
    fixed = [
        outlook.pace(model.task, model.loader, replace(recipe, train=replace(recipe.train, ema_profiles=widths))).fixed
        for widths in ((), (0.05, 0.1))
    ]
    assert fixed[0] == 5 * weights + outlook.BASE and fixed[1] - fixed[0] == 2 * weights


@pytest.mark.parametrize(("room", "expected"), [(740, None), (739, 32), (350, 22), (101, 1), (5, 1)])
def test_a_batch_that_is_too_large_is_taken_in_parts_of_equal_size(monkeypatch, room, expected):
    """64 images of 10 bytes, and 100 besides, are 740."""
    recipe, cost = Recipe(), Pace(1.0, 10.0, 100)
    recipe = replace(recipe, train=replace(recipe.train, batch=64, device="cpu"))
    monkeypatch.setattr(devices, "available", lambda device: room / outlook.ROOM)
    assert fitted(recipe, cost).train.micro_batch == expected
    chosen = replace(recipe, train=replace(recipe.train, micro_batch=48))
    assert fitted(chosen, cost) == chosen


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [8, 12, 28, 32, 48, 64, 256])
def test_what_plain_train_makes_can_be_exported(channels, side):
    config = for_pictures(channels, side, side)
    net = nets.build(config, channels=channels, size=side, classes=3, image=channels)
    net.prior = Prior(3, (channels, side, side), 4)
    assert bridge.refusal(NetDenoiser(net, Flow(), shape=(channels, side, side))) is None
    other = nets.build(replace(config, fourier=16.0), channels=channels, size=side, classes=3)
    assert "fourier" in str(bridge.refusal(NetDenoiser(other, Flow(), shape=(channels, side, side))))


def test_memory_is_fitted_and_said_and_the_run_goes_on_without_being_asked_again(tmp_path, monkeypatch, capsys):
    """In parts of a batch the run ends as it would have in one; started again by the same recipe, it is the same run."""
    config = replace(Recipe().train, images=64, batch=32, sample_every=64, validate_every=64, device="cpu")
    recipe = replace(Recipe(), data=replace(Recipe().data, name="digits8", labels=False), train=config)
    whole, _ = train(recipe, tmp_path / "whole")
    plain = capsys.readouterr().err
    assert "of memory (" in plain and "at a time" not in plain and "for diffusers: reverie convert" not in plain
    assert "no export: diffusers has nothing like this DiT run: train with classes" in plain
    kept = []
    real = outlook.pace
    monkeypatch.setattr("reverie.recipes.training.pace", lambda *given: kept.append(real(*given)) or kept[-1])
    monkeypatch.setattr(
        devices, "available", lambda device: (kept[0].fixed + 9 * kept[0].kept) / outlook.ROOM if kept else 10**12
    )
    parts, _ = train(recipe, tmp_path / "parts")
    assert "in batches of 32, 8 at a time" in capsys.readouterr().err and parts.recipe.train.micro_batch == 8
    again, seen = train(recipe, tmp_path / "parts")
    assert seen == 64 and again.recipe == parts.recipe
    a, b = (run.checkpoints.newest_whole().tensors("model") for run in (whole, parts))
    assert all(torch.allclose(a[name], b[name], atol=1e-4) for name in a)


PEAK = """
import resource, sys
from dataclasses import replace
from pathlib import Path
import torch
from reverie.recipes import outlook, training
from reverie.recipes.recipe import Recipe

torch.set_num_threads(1)
said = []
real = training.pace
training.pace = lambda *given: said.append(real(*given)) or said[-1]
config = replace(Recipe().train, images=256, batch=256, sample_every=10**6, validate_every=10**6, save_every=10**6, device="cpu")
recipe = replace(Recipe(), data=replace(Recipe().data, name="emoji"), train=config)
start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
training.train(recipe, sys.argv[1])
print(said[0].memory(recipe), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def test_the_memory_that_is_said_is_about_what_is_taken(tmp_path):
    """Of a large batch, by the peak of a process of its own."""
    found = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path / "run")], capture_output=True, text=True, check=True
    )
    said, taken = map(int, found.stdout.split()[-2:])
    assert 0.7 < said / taken < 1.4
