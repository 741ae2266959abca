"""A recipe that diffuses the codes of a space: trained, loaded, sampled, resumed."""

from dataclasses import replace

import pytest
import torch

import reverie as rv
from reverie.core.errors import InputError
from reverie.learn import TrainConfig
from reverie.nets.config import DiTConfig
from reverie.recipes.recipe import Recipe, SampleConfig
from reverie.spaces import ConvVAE, PatchPCA, SpaceConfig

RECIPE = Recipe(
    name="codes",
    space=SpaceConfig(name="pca", patch=7, dims=8),
    net=DiTConfig(patch=2, width=16, depth=1, heads=2),
    train=TrainConfig(images=192, batch=32, warmup=32, save_every=96, validate_every=192, sample_every=10**6),
    sample=SampleConfig(steps=2),
)


def test_a_run_keeps_its_space(tmp_path):
    run, _ = rv.recipes.train(RECIPE, tmp_path / "codes")
    denoise = rv.load(run.folder)
    assert isinstance(denoise.space, PatchPCA) and denoise.shape == (8, 4, 4)
    pictures = rv.data.load("mnist5k")
    expected = PatchPCA.fit(pictures, 7, 8)
    x = pictures.batch(range(4))[0]
    torch.testing.assert_close(denoise.space.encode(x), expected.encode(x))
    drawn = rv.sample(denoise, n=2, cond=rv.Cond(label=3), steps=2)
    assert drawn.shape == (2, 1, 28, 28)
    torch.testing.assert_close(drawn, denoise.space.decode(denoise.space.encode(drawn)), atol=1e-4, rtol=0)
    before = (run.folder / "space.safetensors").stat().st_mtime_ns
    rv.recipes.train(RECIPE, run.folder)
    assert (run.folder / "space.safetensors").stat().st_mtime_ns == before


def test_a_trained_space_is_trained_first(tmp_path):
    config = SpaceConfig(name="conv-vae", patch=4, dims=4, width=8, images=128)
    run, _ = rv.recipes.train(replace(RECIPE, space=config, net=replace(RECIPE.net, patch=1)), tmp_path / "vae")
    space = rv.load(run.folder).space
    assert isinstance(space, ConvVAE) and space.width == 8
    x = rv.data.load("mnist5k").batch(range(500))[0]
    assert space.encode(x).square().mean().item() == pytest.approx(1.0, abs=0.2)


def test_a_space_that_does_not_fit_is_an_error_before_anything_is_made(tmp_path):
    with pytest.raises(InputError, match="multiples of 5"):
        rv.recipes.train(replace(RECIPE, space=SpaceConfig(name="pca", patch=5)), tmp_path / "bad")
    assert not (tmp_path / "bad").exists()
