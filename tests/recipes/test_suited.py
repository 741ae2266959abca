"""Settings that suit the data: the measured recipes at their sizes, a network for every size, and nothing of it for who chooses himself."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reverie import data, nets
from reverie.cli.train import parse
from reverie.core.errors import InputError
from reverie.core.task import Player, Task
from reverie.nets.presets import for_pictures
from reverie.recipes import outlook, serialisation, training
from reverie.recipes.recipe import DataConfig, Recipe
from reverie.recipes.suited import suited
from reverie.recipes.training import make
from reverie.recipes.training import train as train_recipe


@pytest.mark.parametrize("name, like", {"mnist5k": "demo", "emoji": "emoji"}.items())
def test_at_their_sizes_they_are_the_measured_recipes(name: str, like: str):
    found, measured = (
        suited(data.load(name), Recipe(data=DataConfig(name=name))),
        serialisation.load(serialisation.find(like)),
    )
    assert found.task.net == measured.task.net and found.task.prior == measured.task.prior
    keys = ("batch", "optimizer", "lr", "weight_decay", "decay")
    assert [getattr(found.train, key) for key in keys] == [getattr(measured.train, key) for key in keys]


@pytest.mark.parametrize("channels", [1, 3])
def test_every_size_has_a_network(channels: int):
    for size in [(s, s) for s in range(4, 72)] + [(32, 48), (28, 100), (33, 64), (256, 256)]:
        net = nets.build(for_pictures(channels, *size), channels=channels, size=size, classes=3, image=channels)
        places = max(size) // net.config.patch
        assert places < 48 or any(s % 8 for s in size), size
        if max(size) < 20 or size in ((32, 48), (33, 64)):
            x = torch.zeros(1, channels, *size)
            assert net(x, torch.zeros(1)).shape == x.shape


def test_who_chooses_the_method_chooses_all_of_it():
    plain = Recipe(data=DataConfig(name="digits8"))
    for words in ("--net dit", "--net.width 64", "--train.lr 0.001", "--schedule vp"):
        found = parse(["--data", "digits8", *words.split()]).recipe
        assert type(found.task.net) is type(plain.task.net) and found.train.optimizer == plain.train.optimizer
    assert parse(["--data", "digits8", "--train.images", "64", "--seed", "3"]).recipe.train.optimizer == "muon"
    assert parse(["mnist5k"]).recipe == serialisation.load(serialisation.find("mnist5k"))


def test_photographs_are_brought_to_what_a_processor_learns(tmp_path: Path):
    for i in range(12):
        Image.fromarray(np.full((300, 400, 3), 20 * i, np.uint8)).save(tmp_path / f"{i}.jpg")
    found = parse(["--data", str(tmp_path), "--train.device", "cpu"]).recipe
    assert found.data.size == 64 and found.task.net.patch == 2
    assert parse(["--data", str(tmp_path), "--train.device", "cpu", "--data.size", "128"]).recipe.data.size == 128


def test_the_same_command_goes_on_and_a_number_of_images_is_kept(tmp_path: Path, capfd):
    words = ["--data", "digits8", "--train.images", "96", "--train.processes", "1", "--train.device", "cpu"]
    run, seen = train_recipe(parse(words).recipe, tmp_path / "run")
    assert seen == 96
    said = capfd.readouterr().err
    assert "digits8: 1,635 pictures of 8x8 in grey in 10 classes, 162 more held out" in said
    assert "96 images in batches of 32: about" in said and f"in {tmp_path / 'run'}" in said
    assert train_recipe(parse(words).recipe, tmp_path / "run")[1] == 96
    assert "in batches of" not in capfd.readouterr().err, "what went on was announced when it began"
    assert run.recipe.train.warmup < 10


def test_a_budget_decides_the_images_of_a_new_run_and_no_other(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(training, "pace", lambda task, loader, recipe: outlook.Pace(0.05, 1.0, 1))
    recipe = parse(["--data", "digits8", "--train.processes", "1", "--train.device", "cpu"]).recipe
    run, seen = train_recipe(recipe, tmp_path / "run", budget=10.0)
    share = 192 / recipe.train.images
    assert seen == 192 == run.recipe.train.images and run.recipe.train.save_every == round(
        share * recipe.train.save_every
    )
    monkeypatch.setattr(training, "pace", lambda task, loader, recipe: outlook.Pace(0.5, 1.0, 1))
    assert train_recipe(recipe, tmp_path / "run", budget=10.0)[1] == 192, "a run that is there keeps its own number"


@pytest.mark.parametrize(
    "text, expected", {"90s": 90.0, "5m": 300.0, "1h30m": 5400.0, "1.5h": 5400.0, "2d": 172800.0}.items()
)
def test_times(text: str, expected: float):
    assert outlook.seconds(text) == expected


@pytest.mark.parametrize("text", ["", "5", "m", "0s", "-5m", "5 m", "5min", "nan", "1e400s"])
def test_times_that_are_none(text: str):
    with pytest.raises(InputError, match="--budget is a time such as"):
        outlook.seconds(text)


def test_the_pace_is_measured_and_changes_nothing(tmp_path: Path):
    recipe = suited(data.load("digits8"), Recipe(data=DataConfig(name="digits8")))
    train, test = (data.load("digits8", split) for split in ("train", "test"))
    made = make(replace(recipe, data=replace(recipe.data, size=8, channels=1)), train, test, tmp_path)
    before = {key: value.clone() for key, value in made.model.net.state_dict().items()}
    assert 1e-6 < outlook.pace(made.task, made.loader, recipe).seconds < 1.0
    assert all(torch.equal(value, before[key]) for key, value in made.model.net.state_dict().items())
    assert all(p.grad is None for p in made.model.net.parameters())


def test_the_pace_leaves_a_task_that_remembers_as_it_is():
    """It is measured on a copy, which shares the pictures; those of a task are many."""
    train, seen = data.load("digits8"), []

    class Remembers(Task):
        def __init__(self) -> None:
            self.data, self.steps, self.net = train, [], torch.nn.Linear(64, 1)
            self.players = {"net": Player(self.net)}

        def loss(self, player, batch, rng, progress):
            self.steps.append(len(batch))
            seen.append((self.data is train, self.steps is not task.steps))
            return {"mse": self.net(batch.x.flatten(1)).square().mean(1)}

    task = Remembers()
    assert outlook.pace(task, data.Loader(train, 0), Recipe(data=DataConfig(name="digits8"))).seconds > 0.0
    assert task.steps == [] and task.net.weight.grad is None and set(seen) == {(True, True)}


def test_captions_are_guided_by_and_have_one_gaussian():
    """The pictures of a class are few, those of all classes together are not: captions take the place of classes."""
    emoji = data.load("emoji")
    plain, told = (suited(emoji, Recipe(data=DataConfig(name="emoji", captions=c))) for c in (False, True))
    assert told.sample.scale == plain.sample.scale == 2.0
    unlabelled = suited(emoji, Recipe(data=DataConfig(name="emoji", labels=False)))
    assert unlabelled.sample.scale == 1.0 and told.task.prior == unlabelled.task.prior  # pyright: ignore
