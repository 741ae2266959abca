"""A recipe whose network is an encoder trains a classifier that guides."""

from dataclasses import replace

import pytest
import torch

from reverie import guide
from reverie.core.condition import Cond
from reverie.core.errors import InputError
from reverie.learn.config import TrainConfig
from reverie.nets.config import EncoderConfig
from reverie.recipes import reading
from reverie.recipes.building import build_denoiser, resolve
from reverie.recipes.recipe import DataConfig, Recipe
from reverie.recipes.runs import Run, load
from reverie.recipes.training import train
from reverie.solve import sample

RECIPE = Recipe(
    name="judge",
    data=DataConfig(name="digits8"),
    net=EncoderConfig(width=8, multipliers=(1, 2), attention=(2,), heads=2),
    train=TrainConfig(images=4096, batch=64, lr=3e-3, warmup=128, save_every=2048),
)


def test_train_load_guide(tmp_path):
    run, seen = train(RECIPE, tmp_path / "run")
    assert seen == 4096
    validation = [entry["validation"] for entry in run.log if "validation" in entry][-1]
    assert validation["accuracy"] > 0.2  # chance is 0.1; the mean over all noise levels
    judge = Run(tmp_path / "run").classifier()
    assert judge.classes == 10
    again = train(RECIPE, tmp_path / "run")[0].classifier()
    x = torch.randn(2, 1, 8, 8)
    point = judge.schedule.point(0.5)
    assert torch.equal(judge(x, point), again(x, point))

    from reverie import data

    model = build_denoiser(replace(resolve(replace(RECIPE, net=Recipe().net), data.load("digits8"))))
    guided = guide.classifier(model, judge, 2.0)
    assert sample(guided, 2, Cond(label=[3, 4]), steps=3).shape == (2, 1, 8, 8)
    with pytest.raises(InputError, match=r"draws none"):
        load(tmp_path / "run")


def test_classes_are_needed_and_a_denoiser_is_no_classifier(tmp_path):
    with pytest.raises(InputError, match=r"learns from labels"):
        train(replace(RECIPE, data=DataConfig(name="digits8", labels=False)), tmp_path / "none")
    tiny = replace(RECIPE, net=Recipe().net, train=replace(RECIPE.train, images=32, batch=32))
    run, _ = train(tiny, tmp_path / "denoiser")
    with pytest.raises(InputError, match=r"is no classifier"):
        run.classifier()


def test_the_recipe_survives_its_file(tmp_path):
    reading.write(RECIPE, tmp_path / "recipe.yaml")
    assert reading.read(tmp_path / "recipe.yaml") == RECIPE
