"""From a folder with captions to a run that is drawn from, measured and reported by text."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reverie import data
from reverie.cli import main
from reverie.core import image_files
from reverie.measure import CaptionScores
from reverie.recipes import measuring
from reverie.recipes.runs import Run

WORDS = ["red", "green", "blue", "white"]
NET = ["--net", "unet", "--net.width", "8", "--net.multipliers", "1", "2", "--net.groups", "4", "--net.attention", "2"]
SMALL = ["--text.width", "16", "--text.depth", "1", "--text.heads", "2", "--train.images", "32", "--train.batch", "8"]
OFTEN = [
    "--train.save-every",
    "32",
    "--train.sample-every",
    "32",
    "--train.validate-every",
    "32",
    "--sample.steps",
    "2",
]


@pytest.fixture
def hearing(monkeypatch) -> None:
    """Runs whose weights are random, so that texts matter where training was short."""
    opened = Run.open

    def stirred(self: Run, *how):
        model, generator = opened(self, *how), torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.net.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        return model

    monkeypatch.setattr(Run, "open", stirred)


def test_texts_are_told_in_regions(run, tmp_path, hearing):
    """One of the whole picture is the plain text, to the bit; a half is another picture, by a mask as by a box, and the file says it."""
    red, blue, words = "a red patch number 3", "a blue patch number 5", ["--n", "1", "--scale", "2"]

    def pictured(name: str, text: str, *regions: str) -> np.ndarray:
        given = [word for region in regions for word in ("--region", region)]
        assert main(["sample", str(run), "--text", text, *given, *words, "--out", str(tmp_path / f"{name}.png")]) == 0
        return drawn(tmp_path / f"{name}.png")

    plain, other = pictured("red", red), pictured("blue", blue)
    assert np.array_equal(pictured("whole", blue, f"{red}=0,0,1,1"), plain) and not np.array_equal(plain, other)
    half = pictured("half", blue, f"{red}=0,0,1,0.5")
    assert not np.array_equal(half, plain) and not np.array_equal(half, other)
    mask = np.zeros((8, 8), np.uint8)
    mask[:, :4] = 255
    Image.fromarray(mask).save(tmp_path / "left.png")
    assert np.array_equal(pictured("mask", blue, f"{red}={tmp_path / 'left.png'}"), half)
    assert main(["sample", "--like", str(tmp_path / "half.png"), "--out", str(tmp_path / "again.png")]) == 0
    assert np.array_equal(drawn(tmp_path / "again.png"), half)


class Means:
    """Features that need no weights."""

    name, dim = "means", 3

    def __call__(self, images):
        return images.mean((2, 3))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, random = tmp_path_factory.mktemp("data") / "patches", np.random.default_rng(0)
    folder.mkdir()
    for i in range(48):
        Image.fromarray(random.integers(0, 255, (8, 8, 3), np.uint8)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"a {WORDS[i % 4]} patch number {i // 4}")
    return folder


@pytest.fixture(scope="module")
def run(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "patches"
    told = ["--data", str(pictures), "--data.captions", "--data.templates", "{}", "this is {}"]
    assert main(["train", *told, *NET, *SMALL, *OFTEN, "--out", str(out)]) == 0
    return out


def drawn(path: Path) -> np.ndarray:
    return np.array(image_files.open_image(path))


def test_a_run_is_drawn_from_by_text(run, tmp_path, capsys):
    first, again, other = (tmp_path / f"{name}.png" for name in ("first", "again", "other"))
    said = ["--text", "a red patch", "a blue patch", "--negative", "grey", "--n", "4", "--scale", "2"]
    assert main(["sample", str(run), *said, "--out", str(first)]) == 0
    assert main(["sample", "--like", str(first), "--out", str(again)]) == 0
    assert np.array_equal(drawn(first), drawn(again))
    assert main(["sample", str(run), "--n", "4", "--out", str(other)]) == 0  # without a text
    assert drawn(other).shape != drawn(first).shape or not np.array_equal(drawn(other), drawn(first))
    capsys.readouterr()
    assert main(["sample", str(run), "--text", "red " * 40, "--n", "1", "--out", str(other)]) == 0
    assert "has 160 tokens, the text encoder takes 32: the first 32 are kept" in capsys.readouterr().err


def test_the_best_of_several_is_kept_and_said_in_the_picture(run, tmp_path, monkeypatch):
    class Red:
        """Likes a picture the more the redder it is, or the less."""

        name, data, seen = "red", "", "nothing"

        def __init__(self, sign):
            self.sign = sign

        def pictures(self, images):
            return images.mean((2, 3))[:, :1]

        def texts(self, texts):
            return torch.full((len(texts), 1), self.sign)

    monkeypatch.setattr(measuring, "scorer", lambda score, device: Red(1.0))
    plain, best, again, worst = (tmp_path / f"{name}.png" for name in ("plain", "best", "again", "worst"))
    said = ["sample", str(run), "--text", "a red patch", "--n", "1", "--seed", "3"]
    assert main([*said, "--out", str(plain)]) == 0
    assert main([*said, "--rerank", str(run), "--candidates", "1", "--out", str(best)]) == 0
    assert np.array_equal(drawn(best), drawn(plain))
    assert main([*said, "--rerank", str(run), "--candidates", "6", "--out", str(best)]) == 0
    assert main(["sample", "--like", str(best), "--out", str(again)]) == 0
    assert np.array_equal(drawn(again), drawn(best))
    monkeypatch.setattr(measuring, "scorer", lambda score, device: Red(-1.0))
    assert main([*said, "--rerank", str(run), "--candidates", "6", "--out", str(worst)]) == 0
    most, usual, least = (drawn(path)[..., 0].mean() for path in (best, plain, worst))
    assert most >= usual >= least and most > least + 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rerank", "runs/towers"], "--rerank chooses by what is to be shown"),
        (["--text", "red", "--candidates", "4"], "--candidates are for --rerank"),
        (["--negative", "grey"], "say with --text what to draw"),
        (["--text", " "], "is empty"),
        (["--scale", "3"], "give --label or --text"),
        (["--region", "a dog=0,0,1,0.5"], "say with --text what the whole is"),
        (["--text", "red", "--region", "a dog"], "--region is TEXT=MASK or TEXT=TOP,LEFT,BOTTOM,RIGHT"),
        (["--text", "red", "--region", "a dog=0,0,1,2"], "is empty or not inside the picture"),
        (["--text", "red", "--region", "a dog=there.png"], "there.png"),
        (["--text", "red", "--region", "a dog=0,0,1,1", "--hint", "x.png"], "leave --hint and --canvas out"),
    ],
)
def test_what_does_not_go_together_is_said(run, words, message, capsys):
    assert main(["sample", str(run), *words]) == 2
    assert message in capsys.readouterr().err


def test_pictures_without_captions_are_no_text_to_image(tmp_path, capsys):
    for i in range(8):
        Image.new("RGB", (8, 8), (30 * i, 0, 0)).save(tmp_path / f"{i}.png")
    assert main(["train", "--data", str(tmp_path), "--data.captions", *NET, "--out", str(tmp_path / "run")]) == 2
    assert "no captions in the data" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_samples_are_measured_by_the_captions_of_held_out_pictures(run, monkeypatch):
    asked: list = []
    monkeypatch.setattr(measuring, "extractor", lambda *_: Means())
    plain = measuring.evaluate
    monkeypatch.setattr(measuring, "evaluate", lambda *a, **k: (asked.append(k["told"]), plain(*a, **k))[1])
    opened = Run(run)
    evaluation = measuring.measure(opened, n=8, seeds=(0,), batch_size=5)
    assert evaluation.figure("kernel", "samples") is not None
    held_out = measuring.sources.load(opened.recipe, "test")
    assert held_out.texts is not None
    by_hand = opened.denoiser().conditioner(text=[held_out.texts[i % len(held_out)] for i in range(8)])
    assert torch.equal(asked[0]["text"].value, by_hand["text"].value)


def test_the_report_and_the_preview_say_what_was_asked_for(run):
    assert main(["report", str(run)]) == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    held_out = measuring.sources.load(Run(run).recipe, "test")
    assert held_out.texts is not None and held_out.texts[0] in page
    assert "Above each column the text that is asked for." in page and "A class a column." not in page
    assert list((run / "samples").glob("*.png"))


def test_a_run_is_scored_by_its_captions(run, pictures, tmp_path, capsys):
    """Told the captions of held-out pictures, and the picture-text model says that it learned from the same ones."""
    small = (
        "--encoder.width 8 --encoder.multipliers 1 2 --encoder.attention 2 --encoder.heads 2 --width 16 --depth 1 --heads 2 --dim 8 "
        "--train.images 32 --train.batch 8"
    )
    out = tmp_path / "towers"
    assert main(["train", "towers", "--data", str(pictures), *small.split(), "--out", str(out)]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(run), "--score", str(out), "--n", "40", "--seeds", "0", "--steps", "2"]) in (0, None)
    said = capsys.readouterr().out
    (found,) = CaptionScores.load_all(run / "captions.json")
    held_out = data.load(pictures, "test")
    assert found.count == len(held_out) == found.new and found.among == len(set(held_out.texts or []))
    assert set(found.rows) == {"samples", "real", "lookup", "shuffled", "chance"} and found.settings["steps"] == 2
    assert found.own and "flatters it" in " ".join(said.split()) and "chance" in said
    again = ["evaluate", str(run), "--score", str(out), "--n", "8", "--seeds", "0", "--steps", "2", "--split", "train"]
    assert main(again) in (0, None)
    trained, _ = CaptionScores.load_all(run / "captions.json")
    assert trained.split == "train" and trained.new == 0 and "lookup" not in trained.rows and trained.count == 8
    assert main(["evaluate", str(run), "--split", "train"]) not in (0, None)
    assert "--split train is for --score" in capsys.readouterr().err
