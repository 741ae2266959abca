"""Adversarial models as runs: the same verbs as any other, bitwise resume of both players, and what is drawn follows the class."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import reverie as rv
from reverie.cli import main
from reverie.families.gan_config import (
    AdversarialConfig,
    DCGANConfig,
    R3GANConfig,
    StyleGAN2Config,
    StyleGANConfig,
)
from reverie.learn.config import TrainConfig
from reverie.recipes import serialisation
from reverie.recipes.recipe import DataConfig, Recipe
from reverie.recipes.runs import Run

from .runs import resumes

SHORT = TrainConfig(
    images=256,
    batch=16,
    betas=(0.0, 0.99),
    weight_decay=0.0,
    clip=0.0,
    save_every=128,
    validate_every=128,
    sample_every=256,
)
CONFIGS = [
    DCGANConfig(dims=6, width=4, loss="minimax"),
    R3GANConfig(dims=6, width=4, patch=1),
    StyleGANConfig(dims=6, width=4, mapping=2),
    StyleGAN2Config(dims=6, width=4, mapping=2, every=4),
]


def recipe(task: AdversarialConfig) -> Recipe:
    return Recipe(name=task.name, data=DataConfig(name="digits8"), task=task, train=SHORT)


@pytest.mark.parametrize("task", CONFIGS, ids=lambda task: task.name)
def test_both_players_resume_bitwise(task: AdversarialConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert resumes(recipe(task), tmp_path, monkeypatch)
    state = Run(tmp_path / "whole").checkpoint.tensors("model")
    players = {key.split(".")[0] for key in state}
    assert players == {"generator", "critic"} | ({"lengths", "augment"} if task.name == "stylegan2" else set())
    if task.name == "stylegan2":
        assert state["augment.p"] > 0 and state["lengths.mean"] > 0 and state["generator.centre"].abs().max() > 0
    other, _ = rv.recipes.train(replace(recipe(task), seed=1), tmp_path / "other")
    theirs = other.checkpoint.tensors("model")
    assert not torch.equal(state["generator." + (key := _weight(state))], theirs["generator." + key])


def _weight(state: dict[str, torch.Tensor]) -> str:
    return next(key for key in state if key.startswith("generator.") and state[key].ndim > 1)[len("generator.") :]


def test_every_verb_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)
    words = "--train.images 64 --train.batch 16 --train.processes 1 --width 4 --dims 6 --mapping 2"
    assert main(f"train stylegan2 --data digits8 {words} --sample.truncation 0.5 --out run".split()) == 0
    assert main(["sample", "run", "--label", "3,5", "--n", "4", "--out", "drawn.png"]) == 0
    assert main(["report", "run"]) == 0
    assert "Truncation" in Path("run/report.html").read_text()
    assert Run("run").generator().settings() == {"truncation": 0.5}
    assert rv.load("run").settings() == {"truncation": 0.5}
    capsys.readouterr()
    assert main(["sample", "run", "--label", "none"]) == 2
    assert "cannot draw without a label" in capsys.readouterr().err


def test_the_recipes_are_there_and_the_one_to_begin_with_is_r3gan():
    for config in CONFIGS:
        found = serialisation.load(serialisation.find(config.name))
        assert found.task.name == config.name and found.data == DataConfig() and found.name == ""
    assert serialisation.load(serialisation.find("gan")) == serialisation.load(serialisation.find("r3gan"))


def test_what_is_drawn_follows_the_class_and_differs_within_it(tmp_path: Path):
    """Read off the nearest mean of a class; a label that is shuffled, and means themselves, fail."""
    learned = replace(
        recipe(R3GANConfig(width=8, patch=1, dims=16, gamma=1.0, every=1)),
        train=replace(SHORT, images=8000, batch=32, lr=3e-3, warmup=320, save_every=8000, sample_every=8000),
    )
    run, _ = rv.recipes.train(learned, tmp_path / "digits")
    held_out = rv.data.load("digits8", "test")
    everything = held_out.batch(range(len(held_out)))
    assert everything.label is not None
    means = torch.stack([everything.x[everything.label == c].mean(0) for c in range(10)])
    spread = torch.stack([everything.x[everything.label == c].std(0).mean() for c in range(10)]).mean()
    label = torch.arange(10).repeat(20)
    drawn = run.generator().sample(200, rv.Cond(label=label), seed=0)
    nearest = (drawn[:, None] - means).square().flatten(2).sum(2).argmin(1)
    right = float((nearest == label).double().mean())
    assert right > 0.6 > 0.3 > float((nearest == label.roll(1)).double().mean())
    varied = torch.stack([drawn[label == c].std(0).mean() for c in range(10)]).mean()
    assert varied > 0.4 * spread > means[label][label == 0].std(0).mean()
