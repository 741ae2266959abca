"""EDM's training, from a recipe, against the loss of its paper (Karras et al. 2022, table 1)."""

from dataclasses import replace

import pytest
import torch

import reverie as rv
from reverie.cli import main
from reverie.core.task import Moment
from reverie.diffusion.config import ClassifierConfig, DenoisingConfig
from reverie.learn import Draws, TrainConfig
from reverie.nets.config import DiTConfig
from reverie.recipes.recipe import DataConfig, Recipe

NOW = Moment(0, 0, 100)
EDM = DenoisingConfig(
    net=DiTConfig(patch=4, width=16, depth=1, heads=2),
    schedule="edm",
    kind="edm",
    data_std=0.5,
    times="lognormal-sigma",
    time="log_sigma",
    drop=0.0,
)


@pytest.mark.parametrize("std", [0.5, 0.9])
def test_the_loss_is_that_of_the_paper(std):
    """``E λ(σ)·‖D(x0 + σε; σ) − x0‖²`` with ``D = c_skip·x + c_out·F(c_in·x; ¼ ln σ)`` and λ = 1/c_out²."""
    data = rv.data.load("digits8")
    config = replace(EDM, data_std=std)
    model = config.build(data.spec, 0)
    for p in model.net.parameters():
        p.data.normal_(std=0.2, generator=torch.Generator().manual_seed(p.numel()))
    task = config.task(model, data, data, config.Sample(), 0)
    batch, rng = data.batch(range(16)), Draws(0, 0, 16)
    loss = task.loss("denoiser", batch, rng, NOW)["mse"]

    normal = torch.special.ndtri(rng.even("time"))
    sigma = torch.exp(torch.tensor(std / 0.5).log() - 1.2 + 1.2 * normal).float()[:, None, None, None]
    c_skip, c_out = std**2 / (sigma**2 + std**2), sigma * std / (sigma**2 + std**2).sqrt()
    x = batch.x + sigma * rng.normal("noise", (1, 8, 8))
    out = model.net(x / (sigma**2 + std**2).sqrt(), sigma.flatten().log() / 4, batch.cond)
    weight = (sigma**2 + std**2) / (sigma * std) ** 2
    paper = (weight * (c_skip * x + c_out * out - batch.x) ** 2).flatten(1).mean(1)
    torch.testing.assert_close(loss, paper, rtol=2e-3, atol=1e-4)
    other = replace(config, data_std=2 * std)
    wrong = other.task(other.build(data.spec, 0), data, data, config.Sample(), 0).loss("denoiser", batch, rng, NOW)[
        "mse"
    ]
    assert not torch.allclose(wrong, paper, rtol=0.05)


def test_what_is_left_open_is_the_papers_and_what_is_given_stays():
    known = EDM.resolved()
    assert known.times_mean == pytest.approx(-1.2) and known.times_std == 1.2
    assert replace(EDM, data_std=1.0).resolved().times_mean == pytest.approx(-1.2 + 0.6931471805599453)
    assert replace(EDM, data_std=None).resolved().times_mean == pytest.approx(-1.2)
    given = replace(EDM, times_mean=0.0, times_std=0.7).resolved()
    assert (given.times_mean, given.times_std) == (0.0, 0.7)
    usual = DenoisingConfig().resolved()
    assert (usual.times_mean, usual.times_std) == (0.0, 1.0)
    assert ClassifierConfig(times="lognormal-sigma").resolved().times_mean == -1.2


def test_a_run_by_flags_says_in_its_recipe_what_it_took_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = (
        "train --data digits8 --schedule edm --kind edm --data-std 0.5 --times lognormal-sigma --time log_sigma --net dit --net.patch 4 "
        "--net.width 16 --net.depth 1 --net.heads 2 --train.images 32 --train.batch 16 --sample.steps 2"
    )
    assert main(words.split()) == 0 and main(words.split()) == 0
    recipe = rv.recipes.Run("runs/digits8").recipe
    assert recipe.task.times_mean == pytest.approx(-1.2) and recipe.task.times_std == 1.2  # pyright: ignore[reportAttributeAccessIssue]


def test_runs_from_before_the_settings_could_be_left_open_go_on(tmp_path):
    config = TrainConfig(images=32, batch=16, validate_every=10**6, sample_every=10**6)
    task = DenoisingConfig(net=EDM.net, times_mean=0.0, times_std=1.0)
    recipe = Recipe(name="old", data=DataConfig(name="digits8"), task=task, train=config)
    rv.recipes.train(recipe, tmp_path / "old")
    left_open = replace(recipe, task=replace(task, times_mean=None, times_std=None))
    assert rv.recipes.train(left_open, tmp_path / "old")[1] == 32
