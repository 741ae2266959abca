"""A recipe that diffuses the codes of a space: trained, loaded, sampled, resumed."""

from dataclasses import replace

import pytest
import torch

import reverie as rv
from reverie.core.errors import InputError
from reverie.diffusion.config import DenoisingConfig, SampleConfig
from reverie.families.token_config import AutoencoderConfig
from reverie.learn import TrainConfig
from reverie.nets.config import DiTConfig
from reverie.recipes.recipe import Recipe
from reverie.spaces import ConvVAE, PatchPCA, SpaceConfig

RECIPE = Recipe(
    name="codes",
    task=DenoisingConfig(
        space=SpaceConfig(name="pca", patch=7, dims=8), net=DiTConfig(patch=2, width=16, depth=1, heads=2)
    ),
    train=TrainConfig(images=192, batch=32, warmup=32, save_every=96, validate_every=192, sample_every=10**6),
    sample=SampleConfig(steps=2),
)


def test_a_run_keeps_its_space(tmp_path):
    run, _ = rv.recipes.train(RECIPE, tmp_path / "codes")
    denoise = rv.load(run.folder)
    assert isinstance(denoise.space, PatchPCA) and denoise.shape == (8, 4, 4)
    pictures = rv.data.load("mnist5k")
    expected = PatchPCA.fit(pictures, 7, 8)
    x = pictures.batch(range(4)).x
    torch.testing.assert_close(denoise.space.encode(x), expected.encode(x))
    drawn = rv.sample(denoise, n=2, cond=rv.Cond(label=3), steps=2)
    assert drawn.shape == (2, 1, 28, 28)
    torch.testing.assert_close(drawn, denoise.space.decode(denoise.space.encode(drawn)), atol=1e-4, rtol=0)
    before = (run.folder / "space.safetensors").stat().st_mtime_ns
    rv.recipes.train(RECIPE, run.folder)
    assert (run.folder / "space.safetensors").stat().st_mtime_ns == before


def test_a_trained_space_is_trained_first(tmp_path):
    config = SpaceConfig(name="conv-vae", patch=4, dims=4, width=8, images=128)
    run, _ = rv.recipes.train(
        replace(RECIPE, task=replace(RECIPE.task, space=config, net=replace(RECIPE.task.net, patch=1))),
        tmp_path / "vae",
    )
    space = rv.load(run.folder).space
    assert isinstance(space, ConvVAE) and space.width == 8
    x = rv.data.load("mnist5k").batch(range(500)).x
    assert space.encode(x).square().mean().item() == pytest.approx(1.0, abs=0.2)


def test_a_space_that_does_not_fit_is_an_error_before_anything_is_made(tmp_path):
    with pytest.raises(InputError, match="multiples of 5"):
        rv.recipes.train(
            replace(RECIPE, task=replace(RECIPE.task, space=SpaceConfig(name="pca", patch=5))), tmp_path / "bad"
        )
    assert not (tmp_path / "bad").exists()


def test_a_run_works_in_the_space_of_another_run_and_keeps_it_when_both_move(tmp_path):
    own = AutoencoderConfig(kind="patch-ae", patch=7, dims=8)
    settings = TrainConfig(images=64, batch=32, warmup=32, save_every=32, validate_every=64, sample_every=64)
    first, _ = rv.recipes.train(Recipe(name="ae", task=own, train=settings), tmp_path / "ae")
    assert len(list((first.folder / "samples").iterdir())) == 1
    space = rv.load(first.folder)
    x = rv.data.load("mnist5k").batch(range(200)).x
    assert space.encode(x).square().mean().item() == pytest.approx(1.0, abs=0.2)
    task = replace(RECIPE.task, space=SpaceConfig(name=str(first.folder)))
    run, _ = rv.recipes.train(replace(RECIPE, task=task), tmp_path / "codes")
    first.folder.rename(tmp_path / "elsewhere")
    denoise = rv.load(run.folder.rename(tmp_path / "moved"))
    assert torch.equal(denoise.space.encode(x), space.encode(x))
    with pytest.raises(InputError, match="gives a NetDenoiser, no space"):
        task = replace(RECIPE.task, space=SpaceConfig(name=str(tmp_path / "moved")))
        rv.recipes.train(replace(RECIPE, task=task), tmp_path / "wrong")
    with pytest.raises(InputError, match="autoencoder draws nothing"):
        rv.recipes.Run(tmp_path / "elsewhere").generator()
