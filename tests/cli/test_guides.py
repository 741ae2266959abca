"""Guides by words: each is the guide of Python, and what it lacks is asked for."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import reverie as rv
from reverie.cli import main
from reverie.learn import grid
from reverie.recipes.runs import Run

NET = "--net.patch 14 --net.width 16 --net.depth 1 --net.heads 2 --train.images 320 --train.batch 32 --train.warmup 32 --train.lr 0.01"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A classifier of noisy digits, and a model of digits without labels."""
    folder = tmp_path_factory.mktemp("guides")
    small = "--net.width 8 --net.multipliers 1 2 --net.attention 2 --net.heads 2 --train.lr 0.01 --train.warmup 32 --train.batch 32"
    for words in (
        f"classifier --data mnist5k {small} --train.images 1280 --out",
        f"--data.no-labels --data mnist5k {NET} --out",
    ):
        name = "classifier" if words.startswith("classifier") else "plain"
        assert main(["train", *words.split(), str(folder / name)]) == 0
    return folder


@pytest.fixture
def here(runs, digits, tmp_path):
    for name in ("classifier", "plain"):
        shutil.copytree(runs / name, tmp_path / name)
    return tmp_path


def drawn(path) -> torch.Tensor:
    return torch.stack([torch.tensor(np.asarray(Image.open(picture)))[None] for picture in sorted(path.iterdir())])


def same(path, images) -> bool:
    return bool((drawn(path).int() - grid.to_bytes(images).int()).abs().max() <= 1)


def test_a_classifier_gives_labels_to_a_model_without(reverie, here):
    said = reverie("sample plain --guide classifier:classifier:40 --label 3,5 --n 4 --steps 4 --solver ddim --out told")
    assert said.code == 0, said.err
    guided = rv.guide.classifier(rv.load("plain"), rv.load("classifier"), 40.0)
    how = {"steps": 4, "solver": "ddim", "seed": 0}
    assert same(here / "told", rv.sample(guided, 4, rv.Cond(label=[3, 5, 3, 5]), **how))
    assert not same(here / "told", rv.sample(guided, 4, rv.Cond(label=[5, 3, 5, 3]), **how))


def test_a_weaker_model_is_an_earlier_checkpoint(reverie, here, digits):
    weak = Run(digits).checkpoints.all()[0].folder.relative_to(here)
    said = reverie(f"sample digits --guide auto:{weak}:3 --label 3 --n 2 --steps 4 --solver ddim --out auto")
    assert said.code == 0, said.err
    how = {"steps": 4, "solver": "ddim", "seed": 0}
    strong, cond = rv.load("digits"), rv.Cond(label=[3, 3])
    assert same(here / "auto", rv.sample(rv.guide.auto(strong, rv.load(weak), 3.0), 2, cond, **how))
    assert not same(here / "auto", rv.sample(strong, 2, cond, **how))


def test_a_canvas_is_drawn_by_windows(reverie, here):
    said = reverie("sample digits --canvas 28 56 --label 3 --n 2 --steps 4 --solver ddim --scale 1 --out wide")
    assert said.code == 0, said.err
    wide = rv.guide.windows(rv.load("digits"), (28, 56))
    assert same(here / "wide", rv.sample(wide, 2, rv.Cond(label=[3, 3]), steps=4, solver="ddim", seed=0))


@pytest.mark.parametrize(
    "words, parts",
    {
        "--guide classifier:plain:2 --label 3": ["holds no classifier", "reverie train classifier"],
        "--guide classifier:nowhere:2 --label 3": ["no run in nowhere"],
        "--guide classifier:2 --label 3": ["not complete", "classifier:RUN:2"],
        "--guide auto:plain:2 --label 3": ["takes the conditions"],
        "--guide auto:classifier:2 --label 3": ["needs a diffusion model"],
        "--guide auto:digits:much --label 3": ["ends in a number"],
        "--guide auto:digits:2 --scale 2 --label 3": ["in place of --scale"],
        "--guide classifier:classifier:2 --label none": ["give --label"],
        "--canvas 14 56 --label 3": ["at least one window of 28x28"],
    }.items(),
)  # fmt: skip
def test_what_is_missing_is_said(reverie, here, words, parts):
    said = reverie("sample digits --steps 2 --n 1", words)
    assert said.code == 2 and all(part in said.err for part in parts), said.err
