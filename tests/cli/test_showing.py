"""``reverie train elite`` and its like: an encoder beside a run of captions, what it predicts of pictures, and what is drawn with that."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reverie.cli import main

NET = "--net unet --net.width 8 --net.multipliers 1 2 --net.groups 4 --net.attention 2 --text.width 16 --text.depth 1 --text.heads 2"
QUICK = "--train.images 128 --train.batch 8 --train.lr 0.01 --train.warmup 8 --train.sample-every 128 --train.validate-every 128"
SMALL = "--net.width 8 --net.multipliers 1 2 --net.attention 2 --net.heads 2 --width 16 --prompt {}"
SHORT = "--train.images 32 --train.batch 8 --train.warmup 8 --train.lr 0.02 --train.save-every 16 --train.validate-every 32 --train.keep 9"
SUBJECTS = "--data subjects --data.maps masks"
METHODS = {
    "elite": f"{SUBJECTS} --words 2",
    "fastcomposer": "--data pairs --data.captions --data.maps parts",
    "suti": "--data subjects --shown 2",
    "instantbooth": SUBJECTS,
    "taming": SUBJECTS,
}


def picture(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


@pytest.fixture(scope="session")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that reads captions, ``told``, and pictures of subjects with masks."""
    folder = tmp_path_factory.mktemp("captioned")
    rng = np.random.default_rng(0)
    for i in range(24):
        picture(folder / "patches" / f"{i}.png", rng.integers(0, 255, (8, 8, 3)))
        (folder / "patches" / f"{i}.txt").write_text(f"a {('red', 'blue')[i % 2]} patch")
        mask = np.where(np.arange(8)[None] < 4, 0, 255) * np.ones((8, 1))
        picture(folder / "subjects" / f"s{i // 4}" / f"{i}.png", rng.integers(0, 255, (8, 8, 3)))
        picture(folder / "masks" / f"s{i // 4}" / f"{i}.png", mask)
        picture(folder / "pairs" / f"{i}.png", rng.integers(0, 255, (8, 8, 3)))
        (folder / "pairs" / f"{i}.txt").write_text("fox, owl")
        picture(folder / "parts" / f"{i}.png", np.where(np.arange(8)[None] < 4, 0, 1) * np.ones((8, 1)))
    (folder / "parts" / "classes.txt").write_text("fox\nowl\n")
    words = f"train --data {folder}/patches --data.captions {NET} {QUICK} --sample.steps 2 --out {folder}/told"
    assert main(words.split()) == 0
    return folder


@pytest.fixture
def world(captioned: Path, tmp_path: Path) -> Path:
    for each in captioned.iterdir():
        shutil.copytree(each, tmp_path / each.name)
    shutil.copytree(captioned / "subjects" / "s0", tmp_path / "mine")
    shutil.copytree(captioned / "masks" / "s0", tmp_path / "where")
    return tmp_path


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


@pytest.mark.parametrize("method", METHODS)
def test_an_encoder_is_trained_beside_a_run_of_captions_and_shows_a_subject_at_once(reverie, world, method):
    words = f"train {method} --base told {METHODS[method]} {SMALL} {SHORT} --out enc"
    said = reverie(words)
    assert said.code == 0 and "next: reverie adapt --encoder enc --help" in said.out, said.err
    log = [json.loads(line) for line in (world / "enc" / "log.jsonl").read_text().splitlines()]
    assert any(set(line.get("validation", {})) == {"loss", "exchanged"} for line in log)
    said = reverie("adapt told mine --encoder enc --no-tune --data.maps where --prompt {} --out pred")
    assert said.code == 0 and "next: reverie sample told --adapter pred --text '<mine>'" in said.out, said.err
    tuned = "--token <me> --prompt {} --train.images 8 --train.lr 0.05"
    assert reverie(f"adapt told mine --encoder enc {tuned} --out tuned").code == 0
    drawn = {}
    for name, how in (
        ("with", "--adapter pred:20 --text <mine>"),
        ("late", "--adapter pred:20 --delay 1 --text <mine>"),
        ("blind", "--adapter pred:0 --text <mine>"),
        ("both", "--adapter pred --adapter tuned --text <mine>_and_<me>"),
    ):
        said = reverie(
            *[
                word.replace("_", " ") if "_" in word else word
                for word in f"sample told --n 2 {how} --out {name}.png".split()
            ]
        )
        assert said.code == 0, said.err
        drawn[name] = read(world / f"{name}.png")
    assert (drawn["late"] == drawn["blind"]).all() and (drawn["with"] != drawn["blind"]).any()
    last = max((world / "enc" / "checkpoints").glob("step-*"))
    whole = {path.name: path.read_bytes() for path in last.glob("*.safetensors")}
    shutil.rmtree(last)
    assert reverie(words).code == 0  # resumes to the same bits
    assert {path.name: path.read_bytes() for path in last.glob("*.safetensors")} == whole


def test_what_does_not_fit_is_said_in_a_line(reverie, world, digits):
    assert reverie(f"train e4t --base told --data subjects {SMALL} {SHORT} --out e4t").code == 0
    for words, expected in (
        ("train elite", "give --base RUN"),
        ("train fastcomposer --base told --data subjects --data.maps masks", "--data.captions"),
        ("train taming --base told --data subjects", "--cut 0"),
        ("train elite --base told --data mine", "a folder of pictures each"),
        (f"train elite --base digits --data subjects {SMALL}", "reverie train e4t"),
        ("train e4t --base told --data subjects --data.maps masks", "learns from no maps"),
        ("adapt told mine --encoder e4t --no-tune --data.maps where", "leave the masks out"),
        ("sample told --text patch --delay 0.3", "--delay is for"),
    ):
        said = reverie(words)
        assert said.code == 2 and expected in said.err.splitlines()[-1], (words, said.err)
    assert reverie("adapt told mine --encoder e4t --no-tune --prompt {} --out pred").code == 0
    said = reverie("sample told --adapter pred --delay 0.3 --text <mine>")
    assert said.code == 2 and "shows none" in said.err
