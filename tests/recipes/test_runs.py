"""A run from Python: train, load, sample."""

from dataclasses import replace

import pytest
import torch

import reverie as rv
from reverie.core.errors import InputError
from reverie.core.paths import SCHEDULES
from reverie.diffusion.config import DenoisingConfig, SampleConfig
from reverie.learn import TrainConfig
from reverie.nets.config import DiTConfig
from reverie.recipes import sources
from reverie.recipes.recipe import Recipe

RECIPE = Recipe(
    name="tiny",
    task=DenoisingConfig(net=DiTConfig(patch=14, width=16, depth=1, heads=2)),
    train=TrainConfig(images=320, batch=32, warmup=32, save_every=160, validate_every=160, sample_every=10**6),
    sample=SampleConfig(steps=2),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run, seen = rv.recipes.train(RECIPE, tmp_path_factory.mktemp("runs") / "tiny")
    assert seen == 320
    return run


def test_load_gives_the_averaged_weights_frozen(run):
    denoise = rv.load(run.folder)
    weights = run.checkpoint.tensors("ema")
    assert denoise.shape == (1, 28, 28) and denoise.conditions["label"].classes == 10
    assert not denoise.net.training and not any(p.requires_grad for p in denoise.net.parameters())
    for name, parameter in denoise.net.named_parameters():
        assert torch.equal(parameter, weights[f"denoiser.{name}"])
    last = dict(rv.load(run.folder, ema=False).net.named_parameters())
    assert not all(torch.equal(p, last[name]) for name, p in denoise.net.named_parameters())


def test_a_checkpoint_by_its_folder(run):
    first = run.checkpoints.all()[0].folder
    early, late = rv.load(first), rv.load(run.folder)
    assert not all(torch.equal(p, q) for p, q in zip(early.net.parameters(), late.net.parameters(), strict=True))


def test_sampling_what_was_loaded(run):
    images = rv.sample(rv.guide.cfg(rv.load(run.folder), 2.0), n=3, cond=rv.Cond(label=7), steps=2, seed=0)
    assert images.shape == (3, 1, 28, 28) and images.isfinite().all() and not images.requires_grad


def test_training_lowers_the_validation_loss_below_that_of_a_network_that_learned_nothing(run):
    losses = [entry["validation"]["loss"] for entry in run.log if "validation" in entry]
    assert losses[-1] < losses[0]


def test_the_seed_of_a_recipe_decides_its_first_weights():
    spec = rv.data.load("mnist5k").spec
    first, again, other = (RECIPE.task.build(spec, seed).net.embed.weight for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_recipe_without_its_data_resolved_builds_nothing():
    with pytest.raises(InputError, match="size and channels"):
        sources.spec(RECIPE.data)


def test_a_model_whose_labels_were_never_dropped_is_not_guided(run):
    never, denoise = replace(run.recipe.task, drop=0.0), rv.load(run.folder)
    assert never.generator(denoise, SampleConfig(scale=1.0)).denoise is denoise
    assert never.usual(SampleConfig(scale=2.0)).scale == 1.0 and run.recipe.usual.scale == 2.0
    with pytest.raises(InputError, match=r"drop 0"):
        never.generator(denoise, SampleConfig(scale=2.0))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("times", ["uniform", "logit-normal", "logsnr"])
def test_every_path_and_density_trains_and_samples(tmp_path, schedule, times):
    kind, time = ("edm", "log_sigma") if schedule in ("ve", "edm") else ("v", "t")
    task = replace(RECIPE.task, schedule=schedule, times=times, kind=kind, time=time, data_std=0.5)
    train = replace(RECIPE.train, images=32, sample_every=32)
    run, _ = rv.recipes.train(
        replace(RECIPE, task=task, train=train, sample=SampleConfig(steps=2, grid="logsnr")), tmp_path / "r"
    )
    assert len(list((run.folder / "samples").iterdir())) == 1
    assert all(torch.isfinite(torch.tensor(entry["loss"])) for entry in run.log if "loss" in entry)
