"""Two processes that share each batch learn what one learns."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import reverie as rv
from reverie.core.errors import InputError
from reverie.diffusion.config import DenoisingConfig, SampleConfig
from reverie.learn import TrainConfig
from reverie.learn.runtime import Runtime
from reverie.nets.config import DiTConfig
from reverie.recipes.recipe import Recipe

RECIPE = Recipe(
    name="shared",
    task=DenoisingConfig(net=DiTConfig(patch=14, width=16, depth=1, heads=2)),
    train=TrainConfig(images=192, batch=32, lr=0.01, warmup=64, save_every=96, validate_every=192, sample_every=10**6),
    sample=SampleConfig(steps=2),
)


def weights(folder: Path, recipe: Recipe) -> dict[str, torch.Tensor]:
    run, seen = rv.recipes.train(recipe, folder)
    assert seen == recipe.train.images
    return run.checkpoint.tensors("model")


def test_two_processes_learn_what_one_learns(tmp_path: Path):
    one = weights(tmp_path / "one", RECIPE)
    two = weights(tmp_path / "two", replace(RECIPE, train=replace(RECIPE.train, processes=2)))
    other = weights(tmp_path / "other", replace(RECIPE, seed=1))

    def apart(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
        return max((a[key] - b[key]).abs().max().item() for key in a)

    assert apart(one, two) < 1e-3 < 1e-2 < apart(one, other)


def test_two_processes_know_one_history(tmp_path: Path):
    """Each has drawn by the losses of both: as many of each move as one process alone, and the same losses."""
    task = replace(
        RECIPE.task, net=replace(RECIPE.task.net, learn_sigma=True), objective="vlb", times="uniform", schedule="ddpm"
    )
    recipe = replace(RECIPE, task=task, train=replace(RECIPE.train, images=93, batch=31, save_every=31))
    one = weights(tmp_path / "one", recipe)
    two = weights(tmp_path / "two", replace(recipe, train=replace(recipe.train, processes=2)))
    assert one["history.count"].sum() == 93 and torch.equal(one["history.count"], two["history.count"])
    torch.testing.assert_close(one["history.losses"], two["history.losses"], rtol=1e-2, atol=1e-5)
    assert one["history.losses"].max() > 1e-2


def test_shares_are_whole():
    parts = [Runtime(torch.device("cpu"), rank=rank, world=3).shard(10, 8) for rank in range(3)]
    assert [i for start, count in parts for i in range(start, start + count)] == list(range(10, 18))


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(InputError, match="cannot share a batch of 1"):
        Runtime(torch.device("cpu"), rank=0, world=2).shard(0, 1)
