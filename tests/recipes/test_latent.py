"""Latent diffusion as one recipe: a KL auto-encoder, its codes made once, a denoiser on them, pictures."""

from dataclasses import replace

import pytest
import torch

import reverie as rv
from reverie.core.errors import InputError
from reverie.data.codes import CodeSet
from reverie.diffusion import first_stage
from reverie.diffusion.config import DenoisingConfig, SampleConfig
from reverie.learn import TrainConfig
from reverie.nets.config import DiTConfig
from reverie.recipes import outlook, training
from reverie.recipes.outlook import Pace
from reverie.recipes.recipe import DataConfig, Recipe
from reverie.spaces import ConvVAE, SpaceConfig
from reverie.spaces.latent import Latent

from ..families.runs import resumes

SPACE = SpaceConfig(
    name="conv-vae",
    patch=4,
    dims=4,
    kl=1e-2,
    width=8,
    images=4_096,
    batch=32,
    perceptual="efficientnet-lite0",
    adversarial=0.5,
)
RECIPE = Recipe(
    name="latent",
    data=DataConfig(name="digits8"),
    task=DenoisingConfig(space=SPACE, net=DiTConfig(patch=1, width=16, depth=1, heads=2), prior=4),
    train=TrainConfig(images=64, batch=16, warmup=16, save_every=32, validate_every=64, sample_every=64),
    sample=SampleConfig(steps=2, scale=1.0),
)


class Looks(torch.nn.Module):
    """In place of EfficientNet-Lite0, whose weights are a package of their own."""

    def stages(self, images):
        return [
            torch.cat([images, images.square()], 1),
            torch.nn.functional.avg_pool2d(images, 4).expand(-1, 3, -1, -1),
        ]


@pytest.fixture(autouse=True)
def looks(monkeypatch):
    monkeypatch.setattr(first_stage, "EfficientNetLite0", Looks)


def psnr(a, b):
    """Of pictures in [−1, 1], in decibels."""
    return 10 * torch.log10(4 / (a - b).square().mean()).item()


def test_one_recipe_closes_the_chain_and_makes_the_codes_once(tmp_path, monkeypatch):
    run, seen = rv.recipes.train(RECIPE, tmp_path / "run")
    assert seen == 64
    first = rv.recipes.Run(run.folder).path("space", "log.jsonl").read_text()
    assert "perceptual" in first and "hinge" in first and "adversarial" in first

    denoise, digits = rv.load(run.folder), rv.data.load("digits8")
    space, x = denoise.space, rv.data.load("digits8", "test").batch(range(64)).x
    assert isinstance(space, ConvVAE) and denoise.shape == (4, 2, 2)
    codes = space.encode(digits.batch(range(len(digits))).x)
    assert codes.mean().item() == pytest.approx(0.0, abs=0.02) and codes.std().item() == pytest.approx(1.0, abs=0.02)
    sound = psnr(x, space.decode(space.encode(x)))
    torch.manual_seed(1)
    untrained = ConvVAE(1, 4, 4, width=8).requires_grad_(False).normalise(x)
    assert sound > psnr(x, untrained.decode(untrained.encode(x))) + 3  # the controls: no training, and codes of others
    assert sound > psnr(x, space.decode(space.encode(x).roll(1, 0))) + 3
    assert rv.sample(denoise, n=2, cond=rv.Cond(label=[0, 1]), steps=2).shape == (2, 1, 8, 8)

    files = sorted(run.path("codes").iterdir())
    before = [path.stat().st_mtime_ns for path in files]
    assert len(files) == 2
    monkeypatch.setattr(Latent, "encode", lambda *_: pytest.fail("a picture was encoded again"))
    longer = replace(RECIPE, train=replace(RECIPE.train, images=96))
    rv.recipes.train(longer, run.folder, extending=True)
    assert [path.stat().st_mtime_ns for path in sorted(run.path("codes").iterdir())] == before


def test_it_goes_on_from_any_of_its_checkpoints(tmp_path, monkeypatch):
    small = replace(SPACE, images=64)
    assert resumes(replace(RECIPE, task=replace(RECIPE.task, space=small)), tmp_path, monkeypatch)


def test_training_on_codes_is_training_on_the_pictures_that_they_are_of(tmp_path):
    """The same loss, the same prior; of mirrored pictures the codes are those of the mirror images, not mirrored ones."""
    small = replace(
        RECIPE, task=replace(RECIPE.task, space=replace(SPACE, name="pca")), data=replace(RECIPE.data, flip=True)
    )
    run, _ = rv.recipes.train(small, tmp_path / "run")
    data, held_out = rv.data.load("digits8"), rv.data.load("digits8", "test")
    task, model = run.recipe.task, rv.load(run.folder)
    codes, unseen = task.examples(data, held_out, run.folder, run.folder / "codes")
    assert isinstance(codes, CodeSet)
    on_codes, on_pictures = (
        task.task(model, a, b, run.recipe.sample, 0) for a, b in ((codes, unseen), (data, held_out))
    )
    a, b = on_codes.validate(), on_pictures.validate()
    assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
    control = task.task(
        model, codes, CodeSet(unseen.x.roll(1, 0) + 0.3, unseen.labels, classes=unseen.classes), None, 0
    )
    assert control.validate()["loss"] != pytest.approx(b["loss"], rel=1e-3)

    loader = training.make(run.recipe, data, held_out, run.folder).loader
    assert len(loader.data) == 2 * len(data)
    x = data.batch([5]).x
    turned = loader.data.batch([5 + len(data)]).x
    torch.testing.assert_close(turned, model.space.encode(x.flip(-1)), atol=1e-5, rtol=0)
    assert (turned - model.space.encode(x).flip(-1)).abs().max() > 0.1


def test_a_budget_is_shared_with_the_auto_encoder_and_kept_when_the_run_goes_on(tmp_path, monkeypatch):
    for room in (outlook, training):  # the auto-encoder is paced by the first, the denoiser by the second
        monkeypatch.setattr(room, "pace", lambda *_: Pace(0.5, 1.0, 1))
    run, seen = rv.recipes.train(RECIPE, tmp_path / "run", budget=90.0)
    assert run.recipe.task.space.images == 64  # half of 90 s at half a second each, in whole batches
    assert seen == run.recipe.train.images and 80 < seen < 180
    again, seen_again = rv.recipes.train(RECIPE, tmp_path / "run", budget=90.0)
    assert again.recipe == run.recipe and seen_again == seen


def test_a_perceptual_loss_without_its_network_is_an_error_that_says_how_to_get_it(tmp_path, monkeypatch):
    def missing():
        raise InputError("the EfficientNet-Lite0 extractor needs its weights: reverie prefetch efficientnet-lite0.")

    monkeypatch.setattr(first_stage, "EfficientNetLite0", missing)
    with pytest.raises(InputError, match="prefetch efficientnet-lite0"):
        rv.recipes.train(RECIPE, tmp_path / "run")
    with pytest.raises(InputError, match="looks at pictures of any size"):
        space = replace(SPACE, perceptual="mnist5k")
        rv.recipes.train(replace(RECIPE, task=replace(RECIPE.task, space=space)), tmp_path / "judge")
