"""A run goes on by another recipe: to the bit as if it had begun with it, with what it had before kept."""

from dataclasses import replace

import pytest
import torch

import reverie as rv
from reverie.core.errors import InputError
from reverie.diffusion.config import DenoisingConfig
from reverie.learn import TrainConfig
from reverie.nets.config import DiTConfig
from reverie.recipes import serialisation
from reverie.recipes.recipe import DataConfig, Recipe
from reverie.recipes.training import train

SHORT = Recipe(
    name="tiny",
    data=DataConfig(name="digits8"),
    task=DenoisingConfig(net=DiTConfig(patch=2, width=16, depth=1, heads=2)),
    train=TrainConfig(
        images=64, batch=16, warmup=32, decay="constant", save_every=32, validate_every=10**6, sample_every=10**6
    ),
)
LONG = replace(SHORT, train=replace(SHORT.train, images=128, lr=3e-3), sample=replace(SHORT.sample, steps=7))


def weights(run):
    return run.checkpoint.tensors("model") | run.checkpoint.tensors("ema")


def same(a, b):
    return all(torch.equal(a[key], b[key]) for key in a)


def test_it_ends_as_if_it_had_begun_so(tmp_path):
    """A constant rate does not depend on the end, so the whole run is the short one, extended; another rate is another run."""
    longer = replace(SHORT, train=replace(SHORT.train, images=128))
    whole, _ = rv.recipes.train(longer, tmp_path / "whole")
    train(SHORT, tmp_path / "parts")
    run, seen = train(longer, tmp_path / "parts", extending=True)
    assert seen == 128 and same(weights(run), weights(whole))
    train(SHORT, tmp_path / "faster")
    faster, _ = train(LONG, tmp_path / "faster", extending=True)
    assert not same(weights(faster), weights(whole))


def test_the_recipe_is_sealed_and_what_was_before_is_kept(tmp_path, capfd):
    train(SHORT, tmp_path / "run")
    run, _ = train(LONG, tmp_path / "run", extending=True)
    assert "goes on from 64 images with train.images 128 (was 64)" in capfd.readouterr().err
    resolved = serialisation.load(run.folder / "recipe.yaml", sealed=True)
    kept = serialisation.load(run.folder / "recipes" / "recipe-1.yaml", sealed=True)
    assert (resolved.train, resolved.sample) == (LONG.train, LONG.sample)
    assert (kept.train, kept.sample) == (SHORT.train, SHORT.sample)
    (noted,) = (entry for entry in run.log if "recipe" in entry)
    assert noted["images"] == 64 and noted["before"] == "recipes/recipe-1.yaml"
    assert noted["recipe"] == {"train.images": [64, 128], "train.lr": [1e-3, 3e-3], "sample.steps": [20, 7]}
    train(LONG, run.folder)  # the new recipe is the run's: the same command finds it done
    train(LONG, run.folder, extending=True)
    assert len(list((run.folder / "recipes").iterdir())) == 1, "nothing changed, nothing is noted"
    train(replace(LONG, train=replace(LONG.train, images=160)), run.folder, extending=True)
    assert [path.name for path in sorted((run.folder / "recipes").iterdir())] == ["recipe-1.yaml", "recipe-2.yaml"]
    assert len([entry for entry in run.log if "recipe" in entry]) == 2


def test_what_else_changed_is_refused_by_the_table(tmp_path):
    train(SHORT, tmp_path / "run")
    before = (tmp_path / "run" / "recipe.yaml").read_text()
    refusals = {
        "seed": replace(LONG, seed=1),
        "kind": replace(LONG, task=replace(LONG.task, kind="v")),
        "train.optimizer": replace(LONG, train=replace(LONG.train, optimizer="muon")),
    }
    for key, other in refusals.items():
        with pytest.raises(InputError, match=rf"another recipe:[\s\S]*  {key} ") as refused:
            train(other, tmp_path / "run", extending=True)
        assert "--extend" not in str(refused.value)
    with pytest.raises(InputError, match=r"seen 64 images: --train\.images is at least that, got 32"):
        train(replace(SHORT, train=replace(SHORT.train, images=32)), tmp_path / "run", extending=True)
    with pytest.raises(InputError, match="--extend goes on with that run by these"):
        train(LONG, tmp_path / "run")
    with pytest.raises(InputError, match="there is none in"):
        train(LONG, tmp_path / "other", extending=True)
    assert (tmp_path / "run" / "recipe.yaml").read_text() == before and not (tmp_path / "other").exists()
    assert not (tmp_path / "run" / "recipes").exists()
