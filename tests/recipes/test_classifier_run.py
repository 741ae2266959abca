"""The task classifier trains a classifier that guides; recipes of the layout before tasks open as ever."""

from dataclasses import replace

import pytest
import torch

from reverie import guide
from reverie.core.condition import Cond
from reverie.core.errors import InputError
from reverie.diffusion.config import ClassifierConfig, DenoisingConfig
from reverie.guide.classifier import NetClassifier
from reverie.learn.config import TrainConfig
from reverie.nets.config import EncoderConfig, UViTConfig
from reverie.recipes import serialisation
from reverie.recipes.recipe import DataConfig, Recipe
from reverie.recipes.runs import load
from reverie.recipes.training import train
from reverie.report import report
from reverie.solve import sample
from reverie.spaces import SpaceConfig

RECIPE = Recipe(
    name="judge",
    data=DataConfig(name="digits8"),
    task=ClassifierConfig(net=EncoderConfig(width=8, multipliers=(1, 2), attention=(2,), heads=2)),
    train=TrainConfig(images=4096, batch=64, lr=1e-2, warmup=128, save_every=2048),
)


def test_train_load_guide(tmp_path):
    run, seen = train(RECIPE, tmp_path / "run")
    assert seen == 4096
    validation = [entry["validation"] for entry in run.log if "validation" in entry][-1]
    assert validation["accuracy"] > 0.2  # chance is 0.1; the mean over all noise levels
    judge = load(tmp_path / "run")
    assert isinstance(judge, NetClassifier) and judge.classes == 10
    again = train(RECIPE, tmp_path / "run")[0].open()
    x = torch.randn(2, 1, 8, 8)
    point = judge.schedule.point(0.5)
    assert torch.equal(judge(x, point), again(x, point))

    from reverie import data

    model = DenoisingConfig().build(data.load("digits8").spec, 0)
    guided = guide.classifier(model, judge, 2.0)
    assert sample(guided, 2, Cond(label=[3, 4]), steps=3).shape == (2, 1, 8, 8)
    with pytest.raises(InputError, match=r"classifier draws nothing"):
        run.generator()
    with pytest.raises(InputError, match=r"needs a diffusion model"):
        run.denoiser()
    page = report(run).read_text()
    assert "held-out loss" in page.lower() and "reverie evaluate" not in page and "<h2>Samples" not in page


def test_classes_are_needed(tmp_path):
    with pytest.raises(InputError, match=r"learns from labels"):
        train(replace(RECIPE, data=DataConfig(name="digits8", labels=False)), tmp_path / "none")


def test_the_recipe_survives_its_file(tmp_path):
    serialisation.write(RECIPE, tmp_path / "recipe.yaml")
    assert serialisation.load(tmp_path / "recipe.yaml") == RECIPE


def test_recipes_of_the_layout_before_tasks_are_read(tmp_path):
    older = {
        "data": {"name": "digits8"},
        "net": {"name": "encoder", "width": 8, "multipliers": [1, 2], "attention": [2], "heads": 2},
        "denoising": {"schedule": "cosine", "kind": "flow", "times": "uniform", "drop": 0.1},
        "sample": {"steps": 3},
    }
    found = serialisation.from_dict(older)
    assert found.task == replace(RECIPE.task, schedule="cosine", times="uniform")
    older |= {"net": {"name": "uvit", "width": 32}, "space": {"name": "pca", "patch": 2}}
    found = serialisation.from_dict(older)
    assert found.task == DenoisingConfig(
        net=UViTConfig(width=32), space=SpaceConfig(name="pca", patch=2), schedule="cosine", times="uniform"
    )
    assert found.sample.steps == 3
    assert serialisation.from_dict({**older, "denoising": {}}) != found
