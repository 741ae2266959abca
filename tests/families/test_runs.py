"""The tasks of the family as runs: the same verbs as any other, bitwise resume, and what is drawn follows the class."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import reverie as rv
from reverie.cli import main
from reverie.families.config import CODEBOOK, TileConfig
from reverie.learn.config import TrainConfig
from reverie.recipes import serialisation
from reverie.recipes.recipe import DataConfig, Recipe
from reverie.recipes.runs import Run

TASKS = {
    "pixelcnn": "--width 6 --depth 2",
    "pixelcnnpp": "--width 6 --depth 1 --components 2 --dropout 0.2",
    "pixelrnn": "--width 6 --depth 1 --kind diagonal",
    "subpixel": "--width 16 --depth 1 --heads 2",
    "tile": "--patch 2 --codes 16 --width 16 --depth 1 --heads 2",
}
SHORT = "--train.images 192 --train.batch 32 --train.save-every 96 --train.validate-every 96 --train.sample-every 192 --train.processes 1"


def train(task: str, out: Path, more: str = "") -> None:
    assert main(f"train {task} --data digits8 {TASKS[task]} {SHORT} {more} --out {out}".split()) == 0


@pytest.mark.parametrize("task", TASKS)
def test_every_verb_serves(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.chdir(tmp_path)
    train(task, Path("whole"))
    train(task, Path("part"))
    shutil.rmtree(Run("part").checkpoints.all()[-1].folder)
    train(task, Path("part"))
    train(task, Path("other"), "--seed 1")
    whole, part, other = (Run(name).checkpoint for name in ("whole", "part", "other"))
    for name in ("model", "ema", "optimizer"):
        ours, theirs = part.tensors(name), whole.tensors(name)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert not all(torch.equal(v, other.tensors("model")[key]) for key, v in whole.tensors("model").items())

    bits = [entry["validation"]["bits"] for entry in Run("whole").log if "validation" in entry]
    assert len(bits) == 2 and bits[1] < bits[0]
    assert main(["sample", "whole", "--label", "3,5", "--n", "4", "--out", "drawn.png"]) == 0
    assert main(["sample", "--like", "drawn.png"]) == 0
    assert Path("drawn.png").read_bytes()[-500:] == Path("drawn-again.png").read_bytes()[-500:]
    assert main(["report", "whole"]) == 0 and main(["runs", "."]) == 0
    page = Path("whole/report.html").read_text()
    assert ("Likelihood" in page) == (task != "tile") and "From noise" not in page
    assert (Path("whole") / CODEBOOK).exists() == (task == "tile")
    said = json.loads(json.dumps(rv.load("whole").settings()))
    assert said == vars(Run("whole").recipe.usual)  # as its recipe says
    assert main(["sample", "whole", "--label", "none", "--n", "2", "--scale", "1", "--out", "unlabelled.png"]) == 0
    capsys.readouterr()
    assert main(["sample", "whole", "--steps", "3"]) == 2
    assert f"a run of the task {task} is drawn from without --steps" in capsys.readouterr().err


def test_the_recipes_of_the_family_are_there():
    for task in TASKS:
        recipe = serialisation.load(serialisation.find(task))
        assert recipe.task.name == task and recipe.data == DataConfig() and recipe.name == ""


def test_what_is_drawn_follows_the_class(tmp_path: Path):
    """Sums of black and of white tiles, a class each, learned in two seconds; a label that is shuffled draws the other."""
    recipe = Recipe(
        data=DataConfig(name="digits8"),
        task=TileConfig(patch=2, codes=64, width=48, depth=2, heads=2),
        train=TrainConfig(
            images=9600, batch=32, optimizer="muon", lr=0.02, weight_decay=0.0, warmup=320, decay="linear"
        ),
    )
    run, _ = rv.recipes.train(recipe, tmp_path / "digits")
    held_out = rv.data.load("digits8", "test")
    everything = held_out.batch(range(len(held_out)))
    assert everything.label is not None
    means = torch.stack([everything.x[everything.label == c].mean(0) for c in range(10)])
    label = torch.arange(10).repeat(20)
    drawn = run.generator().sample(200, rv.Cond(label=label), seed=0)
    nearest = (drawn[:, None] - means).square().flatten(2).sum(2).argmin(1)
    right = float((nearest == label).double().mean())
    assert right > 0.6 > 0.3 > float((nearest == label.roll(1)).double().mean())
