"""A denoising auto-encoder as a recipe: one noise level, the plain reconstruction error, and features at that level."""

from dataclasses import replace

import torch

import reverie as rv
from reverie.cli import main
from reverie.core.task import Moment
from reverie.diffusion.config import DenoisingConfig
from reverie.learn import Draws
from reverie.recipes import serialisation

RECIPE = serialisation.load(serialisation.find("dae"))


def test_the_loss_is_the_reconstruction_of_what_noise_of_one_level_left():
    data = rv.data.load("mnist5k").without_labels()
    config = RECIPE.task
    model = config.build(data.spec, 0)
    for p in model.net.parameters():
        p.data.normal_(std=0.1, generator=torch.Generator().manual_seed(p.numel()))
    batch, rng = data.batch(range(8)), Draws(0, 0, 8)
    task = config.task(model, data, data, config.Sample(), 0)
    loss = task.loss("denoiser", batch, rng, Moment(0, 0, 100))["mse"]
    noisy = batch.x + rng.normal("noise", data.shape)
    t = model.schedule.t_of_lam(torch.zeros(8, dtype=torch.float64))
    expected = (model.net(noisy, t.float()) - batch.x).square().flatten(1).mean(1)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    more = replace(config, times_std=1.0).task(model, data, data, config.Sample(), 0)
    assert (more.loss("denoiser", batch, rng, Moment(0, 0, 100))["mse"] - expected).abs().max() > 0.01


def test_it_learns_to_denoise_and_is_read_at_its_level(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = "--data digits8 --train.images 3200 --train.warmup 320 --train.validate-every 1600 --train.sample-every 3200 --out run"
    assert main(f"train dae {words}".split()) == 0
    run = rv.recipes.Run("run")
    assert isinstance(run.recipe.task, DenoisingConfig) and not run.spec.classes
    losses = [entry["validation"]["loss"] for entry in run.log if "validation" in entry]
    held_out = rv.data.load("digits8", "test")
    x = held_out.batch(range(len(held_out))).x
    assert losses[-1] < 0.7 * x.var().item()  # the error of the best constant, which sees nothing
    denoise = run.denoiser()
    noisy = x + Draws(1, 0, len(x)).normal("noise", (1, 8, 8))
    assert (denoise(noisy, denoise.schedule.at(0.0)).x0 - x).square().mean() < 0.7 * (noisy - x).square().mean()
    assert main(["read", "probe", "run", "--labels", "100", "--seeds", "1", "--logsnr", "0", "--pictures", "200"]) == 0
