"""Models side by side: what is trained, what is measured anew, and what the page says."""

import json
import re
import shutil
from pathlib import Path

import pytest

from reverie.cli import main
from reverie.cli.train import parse
from reverie.core.errors import InputError
from reverie.recipes import comparing
from reverie.recipes.runs import Run

TINY = (
    "--net unet --net.patch 4 --net.width 8 --net.multipliers 1 --net.blocks 1 --net.groups 4 --net.heads 1 "
    "--train.batch 64 --train.processes 1"
)
FEW = "--n 60 --seeds 0"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Two runs of digits, of one step and of twenty."""
    folder = tmp_path_factory.mktemp("compared")
    for name, images in (("short", 64), ("longer", 1280)):
        words = f"train --data mnist5k {TINY} --train.images {images} --sample.steps 3 --train.validate-every {images} --out"
        assert main([*words.split(), str(folder / "runs" / name)]) == 0
    return folder


@pytest.fixture
def runs(trained: Path, tmp_path: Path, monkeypatch) -> Path:
    shutil.copytree(trained / "runs", tmp_path / "runs")
    monkeypatch.setattr(comparing, "SECONDS", 0.02)
    monkeypatch.setattr(comparing, "HELD_OUT", 2)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_runs_that_are_there(runs, reverie):
    said = reverie("compare runs/short runs/longer", FEW)
    assert said.code == 0, said.err
    assert said.out.rstrip().endswith("runs/compare-mnist5k.html") and "Class accuracy" in said.out
    page = Path("runs/compare-mnist5k.html").read_text()
    assert page.count('"sample of short') == page.count('"sample of longer') == 30
    assert page.count("between two samples of short") == 10
    assert "train.images" in page and "noise" in page and page.count("<polyline") == 0
    assert not re.search(r'(src|href)="(?!data:)', page), "the page needs no other file"
    rows = {line.split()[0]: line for line in said.out.splitlines() if line.startswith(("short", "longer"))}
    copied = Run("runs/short").checkpoint.state["memory"]
    assert set(rows) == {"short", "longer"} and copied > 50_000_000
    assert "0.0" in rows["short"] and "M" in rows["short"]


def test_a_run_that_draws_nothing_is_left_out_and_named(runs, reverie, monkeypatch):
    shutil.copytree("runs/short", "runs/still")
    real = comparing.compared

    def compared(run, **how):
        if run.folder.name == "still":
            raise InputError("it draws nothing")
        return real(run, **how)

    monkeypatch.setattr(comparing, "compared", compared)
    said = reverie("compare runs/short runs/still runs/longer", FEW)
    assert said.code == 1 and "runs/still is left out: it draws nothing" in said.err
    assert "longer" in said.out and "still" not in Path("runs/compare-mnist5k.html").read_text()


def test_a_measurement_is_taken_once_for_a_checkpoint_and_its_settings(runs, reverie, monkeypatch):
    asked = []
    real = comparing.measure
    monkeypatch.setattr(comparing, "measure", lambda run, **how: asked.append(run.folder.name) or real(run, **how))
    assert reverie("compare runs/short runs/longer", FEW).code == 0
    assert reverie("compare runs/short runs/longer", FEW).code == 0 and asked == ["short", "longer"]
    assert reverie("compare runs/short runs/longer --n 70 --seeds 0").code == 0 and asked[2:] == ["short", "longer"]
    assert reverie("train runs/short --extend --train.images 128").code == 0
    assert reverie("compare runs/short runs/longer", FEW).code == 0 and asked[4:] == ["short"]


def test_only_runs_of_the_same_pictures_are_compared(runs, reverie):
    assert reverie("train --data digits8", TINY, "--train.images 64 --out runs/other").code == 0
    said = reverie("compare runs/short runs/other", FEW)
    assert said.code == 2 and "data.name is mnist5k of runs/short and digits8 of runs/other" in said.err
    said = reverie("compare runs/short")
    assert said.code == 2 and "two runs or more" in said.err


class Trains:
    """In place of the process that trains: copies a run, fails or is interrupted."""

    def __init__(self, **outcomes):
        self.outcomes, self.asked = outcomes, []

    def __call__(self, command):
        model = command[4] if not command[4].startswith("--") else "diffusion"
        self.asked.append(command[3:])
        source = self.outcomes[model]
        if isinstance(source, str):
            shutil.copytree(source, command[-1])
        self.code = 0 if isinstance(source, str) else source
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False

    def wait(self):
        return self.code


def test_what_is_missing_is_trained_what_fails_is_said_and_an_interrupt_keeps_what_is_done(runs, reverie, monkeypatch):
    processes = Trains(diffusion="runs/longer", demo="runs/short", emoji=1, mnist5k=130)
    monkeypatch.setattr(comparing.subprocess, "Popen", processes)
    said = reverie("compare mnist5k --budget 5s --models diffusion,emoji,demo", FEW)
    assert (
        said.code == 1 and "emoji is left out" in said.err and said.out.rstrip().endswith("runs/compare-mnist5k.html")
    )
    assert processes.asked[0] == ["train", "--data", "mnist5k", "--budget", "5s", "--out", "runs/mnist5k-diffusion"]
    assert processes.asked[2] == ["train", "demo", "--data", "mnist5k", "--budget", "5s", "--out", "runs/mnist5k-demo"]
    page = Path("runs/compare-mnist5k.html").read_text()
    assert "mnist5k-diffusion" in page and "mnist5k-demo" in page and "mnist5k-emoji" not in page
    processes.asked.clear()
    said = reverie("compare mnist5k --budget 5s --models diffusion,mnist5k,demo", FEW)
    assert said.code == 130 and "go on with: reverie compare mnist5k --budget 5s" in said.err
    assert [words[1] for words in processes.asked] == ["mnist5k"], (
        "what is finished is not trained again, what comes after waits"
    )
    assert "mnist5k-diffusion" in Path("runs/compare-mnist5k.html").read_text()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("compare mnist5k --models nonsense", "nonsense"),
        ("compare mnist5k --models demo,demo", "each model once"),
        ("compare mnist5k --models ,", "each model once"),
        ("compare mnist5k digits8 --models demo", "one data set"),
        ("compare nothing --models demo", "nothing"),
        ("compare mnist5k --models demo --budget 0s", "--budget is a time"),
        ("compare mnist5k", "mnist5k"),
    ],
)
def test_what_cannot_be_compared(reverie, words, why):
    said = reverie(words)
    assert said.code == 2 and why in said.err and said.err.count("\n") == 1


def test_a_model_is_trained_by_the_command_that_a_user_would_type(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert comparing.train("digits8", "diffusion", "2s", Path("runs/digits8-diffusion")) == 0
    run = Run("runs/digits8-diffusion")
    assert run.checkpoint.state["images"] == run.recipe.train.images
    assert json.loads((run.checkpoint.folder / "state.json").read_text())["memory"] > 0


def test_a_vqvae_draws_from_the_tokens_of_the_recipe_maskgit():
    def space(words):
        return parse([*words, "--data", "digits8"]).recipe.task.space  # pyright: ignore[reportAttributeAccessIssue]

    assert space(comparing.words("vqvae")) == space(["maskgit"]) != space(["var"])
    assert comparing.words("gan") == ["gan"] and not comparing.words("diffusion")
