"""`rv.train` on a data set of Python's: a run like any other, which is watched by callbacks and gone on with."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import reverie as rv
from reverie.core.errors import InputError
from reverie.data import decoding
from reverie.diffusion.config import DenoisingConfig, SampleConfig
from reverie.learn import TrainConfig
from reverie.learn.observer import Observer
from reverie.nets.config import DiTConfig, UNetConfig
from reverie.recipes.recipe import Recipe

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "training.md"
RECIPE = Recipe(
    task=DenoisingConfig(net=DiTConfig(patch=4, width=16, depth=1, heads=2)),
    train=TrainConfig(
        images=64, batch=16, warmup=16, log_every=16, save_every=32, validate_every=32, sample_every=10**6
    ),
    sample=SampleConfig(steps=2),
)


class Squares:
    """Forty pictures of two classes, as torch's data sets hold them."""

    classes = ("dark", "light")

    def __init__(self, changed: bool = False) -> None:
        self.shades = np.random.default_rng(changed).integers(0, 100, (40, 8, 8, 3), np.uint8)

    def __len__(self):
        return len(self.shades)

    def __getitem__(self, i):
        return Image.fromarray(self.shades[i] + np.uint8(100 * (i % 2))), i % 2


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("REVERIE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    decoding.decoded.cache_clear()


def test_a_data_set_of_pictures_and_labels_becomes_a_run_that_goes_on():
    run, seen = rv.train(RECIPE, data=Squares(), images=32)
    assert (run.folder, seen, run.recipe.data.classes) == (Path("runs/squares"), 32, ("dark", "light"))
    again, seen = rv.train(RECIPE, data=Squares(), images=64, extending=True)
    assert seen == 64 and again.recipe.train.images == 64
    with pytest.raises(InputError, match=r"runs/squares .*(other pictures|another recipe)"):
        rv.train(RECIPE, data=Squares(changed=True), images=64)
    both, _ = rv.train(RECIPE, "runs/both", data={"train": Squares(), "test": Squares(changed=True)}, images=16)
    train, test = rv.recipes.training.sources.splits(both.recipe)
    assert (len(train), len(test), test.images.float().mean() > 0) == (40, 40, True)


def test_without_a_recipe_the_settings_suit_the_data():
    from reverie.recipes.training import _chosen

    chosen = _chosen(None, Squares(), 20_000)
    assert chosen.train.images == 20_000 and chosen.data.size == 8 and isinstance(chosen.task.net, UNetConfig)
    assert chosen.train.processes == 1  # a script would be run again by a second one
    assert _chosen(RECIPE, "emoji", None).task == RECIPE.task


class Tracker:
    """What trackio and Weights & Biases have in common, by the signatures of their documentation; everything else is an error."""

    def __init__(self) -> None:
        self.logged, self.finished, self.named = [], 0, None

    def init(self, *, project: str, name: str | None = None, config: dict | None = None) -> "Tracker":
        self.named = (project, name)
        return self

    def log(self, metrics: dict, step: int | None = None) -> None:
        assert all(isinstance(key, str) for key in metrics)
        self.logged.append(metrics)

    def finish(self) -> None:
        self.finished += 1


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_the_trackers_of_the_page_are_told_what_the_log_holds(monkeypatch, name):
    (code,) = re.findall(r"^```\{code-block\} python\n(import wandb.*?)^```", PAGE.read_text(), re.M | re.S)
    assert len([line for line in code.splitlines() if line.strip()]) <= 11
    if name == "trackio":
        code = code.replace("import wandb  # or: import trackio as wandb", "import trackio as wandb")
    tracker = Tracker()
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(init=tracker.init, log=tracker.log, finish=tracker.finish))
    told = {"Observer": Observer}
    exec(compile(code, str(PAGE), "exec"), told)
    run, _ = rv.train(RECIPE, "runs/told", data=Squares(), observers=[told["Tracked"]()])
    assert tracker.named == ("reverie", "told") and tracker.finished == 1
    losses = {each["images"]: each["loss"] for each in tracker.logged if "loss" in each}
    assert losses == {entry["images"]: entry["loss"] for entry in run.log if "loss" in entry} and len(losses) == 4
    assert any("validation/loss" in each for each in tracker.logged)
