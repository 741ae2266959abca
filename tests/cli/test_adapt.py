"""``reverie adapt`` and ``reverie sample --adapter``: what is written and said, that the base stays, and what is refused."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from reverie.cli import main

QUICK = "--train.images 16 --train.batch 4 --train.warmup 4 --train.lr 0.02 --drawn 2"


def files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "probe" not in path.name
    }


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


@pytest.mark.parametrize("method", ["lora", "dreambooth", "textual", "custom", "svdiff"])
def test_a_few_pictures_become_a_label_that_is_drawn(reverie, digits, pictures, tmp_path, method):
    before = files(digits)
    said = reverie(f"adapt digits mine --method {method} --token <mine> --like 3 {QUICK} --out a")
    assert said.code == 0, said.err
    assert "a/adapter.safetensors: Adapter(" in said.out and "<mine>" in said.out and "kB" in said.out
    hint = re.search(r"next: reverie (sample digits --adapter a --label) '<mine>'\n", said.out)
    assert hint, said.out
    assert reverie(f"{hint[1]} <mine> --n 2 --out with.png").code == 0
    assert reverie("sample digits --label 3 --n 2 --out without.png").code == 0
    assert (read(tmp_path / "with.png") != read(tmp_path / "without.png")).any()
    assert reverie("sample digits --adapter a:0 --label 3 --n 2 --out zero.png").code == 0
    assert np.array_equal(read(tmp_path / "zero.png"), read(tmp_path / "without.png"))
    assert files(digits) == before
    with Image.open(tmp_path / "with.png") as image:
        told = json.loads(image.text["reverie"])
    assert f"--adapter={tmp_path / 'a'}:1" in told["flags"]
    assert reverie("sample --like with.png --out again.png").code == 0
    assert np.array_equal(read(tmp_path / "again.png"), read(tmp_path / "with.png"))


def test_the_same_command_resumes_to_the_same_bits(reverie, digits, pictures, tmp_path):
    words = f"adapt digits mine --token <mine> --like 3 {QUICK} --train.save-every 8 --train.keep 9"
    assert reverie(f"{words} --out a").code == 0
    whole = (tmp_path / "a" / "adapter.safetensors").read_bytes()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / "adapter.safetensors").unlink()
    steps = sorted((tmp_path / "b" / "checkpoints").glob("step-*"))
    shutil.rmtree(steps[-1])
    assert len(steps) == 2 and reverie(f"{words} --out b").code == 0
    assert (tmp_path / "b" / "adapter.safetensors").read_bytes() == whole


def test_several_adapters_and_those_of_another_base(reverie, digits, pictures, tmp_path):
    for token in ("one", "two"):
        assert reverie(f"adapt digits mine --token <{token}> {QUICK} --out {token}").code == 0
    assert (
        reverie("sample digits --adapter one:0.8 --adapter two/adapter.safetensors --label <one>,<two>,3 --n 3").code
        == 0
    )
    said = reverie("sample digits --adapter one --label <three>")
    assert said.code == 2 and "<one>" in said.err
    said = reverie("sample digits --adapter one --adapter one")
    assert said.code == 2 and "known already" in said.err
    other = min((digits / "checkpoints").glob("step-*"))
    said = reverie(f"sample {other} --adapter one --label <one> --n 1")
    assert said.code == 2 and "--anyway" in said.err and said.err.count("\n") == 1
    assert reverie(f"sample {other} --adapter one --anyway --label <one> --n 1").code == 0


def test_what_does_not_fit_is_said_in_a_line(reverie, digits, pictures):
    for words, expected in (
        ("adapt digits --token <mine>", "come first"),
        ("adapt digits nowhere --token <mine>", "folder of pictures"),
        ("adapt digits mine", "--token"),
        ("adapt digits mine --token mine", "angle brackets"),
        ("adapt digits mine --method dreambooth --token <mine>", "--like"),
        ("adapt digits mine --token <mine> --like 12", "out of range"),
        ("adapt digits mine --method loro --token <mine>", "Did you mean 'lora'"),
        ("adapt nowhere mine --token <mine>", "no run"),
        ("sample digits --anyway", "--adapter"),
        ("sample digits --adapter nowhere.safetensors", "no safetensors file"),
    ):
        said = reverie(words)
        assert said.code == 2 and expected in said.err and said.err.count("\n") == 1, (words, said.err)


def test_an_adapter_draws_nothing_alone(reverie, digits, pictures, tmp_path):
    assert main(f"adapt digits mine --token <mine> {QUICK} --out a".split()) == 0
    said = reverie("sample a")
    assert said.code == 2 and "--adapter" in said.err and said.err.count("\n") == 1
    (tmp_path / "a" / "adapter.safetensors").unlink()  # what the run holds serves as well
    assert reverie("train a").code == 0 and reverie("sample digits --adapter a --label <mine> --n 1").code == 0
    assert reverie("runs .").code == 0
    said = reverie("sample digits --adapter digits")
    assert said.code == 2 and "run of the task denoising" in said.err


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """A run on pictures with captions."""
    folder = tmp_path / "patches"
    folder.mkdir()
    for i, colour in enumerate(np.random.default_rng(0).integers(0, 255, (24, 8, 8, 3), np.uint8)):
        Image.fromarray(colour).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"a {('red', 'blue')[i % 2]} patch")
    net = "--net unet --net.width 8 --net.multipliers 1 2 --net.groups 4 --net.attention 2 --text.width 16 --text.depth 1 --text.heads 2"
    size = "--train.images 16 --train.batch 8 --sample.steps 2 --train.sample-every 16 --train.validate-every 16"
    assert main(f"train --data {folder} --data.captions {net} {size} --out {tmp_path / 'told'}".split()) == 0
    return tmp_path / "told"


@pytest.mark.parametrize("method", ["lora", "xti"])
def test_a_model_of_captions_learns_a_word(reverie, words, tmp_path, method):
    before = files(words)
    mine = tmp_path / "mine"
    mine.mkdir()
    for i in range(3):
        Image.new("RGB", (8, 8), (200, 20 * i, 0)).save(mine / f"{i}.png")
    told = ["--token", "<mine>", "--like", "patch", "--prompt", "a {}", "--preserve", "1"]
    assert main(["adapt", "told", "mine", "--method", method, *told, *QUICK.split(), "--out", "a"]) == 0
    assert main(["sample", "told", "--adapter", "a", "--text", "a <mine>", "--n", "2", "--out", "with.png"]) == 0
    assert main(["sample", "told", "--text", "a patch", "--n", "2", "--out", "without.png"]) == 0
    assert main(["sample", "told", "--adapter", "a:0", "--text", "a patch", "--n", "2", "--out", "zero.png"]) == 0
    row = load_file(tmp_path / "a" / "adapter.safetensors")["rows.<mine>"]
    if method == "lora":
        assert (read(tmp_path / "with.png") != read(tmp_path / "without.png")).any() and row.shape == (5, 16)
    else:  # what so short a training of the base hears of a text is less than a level of a pixel
        assert row.shape[1:] == (5, 16) and len(row) > 1
    assert np.array_equal(read(tmp_path / "zero.png"), read(tmp_path / "without.png"))
    again = reverie(f"adapt told mine --method {method} --token <mine> --like patch {QUICK} --out b")
    assert "next: reverie sample told --adapter b --text 'a photo of <mine>'" in again.out, again
    assert files(words) == before


def test_a_model_of_tokens_learns_a_class_and_a_style(reverie, pictures, tmp_path):
    space = "--space.name vq --space.patch 4 --space.dims 4 --space.codes 16 --space.width 8 --space.images 64"
    tiny = "--width 16 --depth 1 --heads 2 --train.images 32 --train.batch 8 --train.sample-every 32 --train.validate-every 32"
    assert reverie(f"train maskgit --data mnist5k {space} {tiny} --out tokens").code == 0
    before = files(tmp_path / "tokens")
    said = reverie(f"adapt tokens mine --token <mine> --like 3 {QUICK} --out a")
    assert said.code == 0, said.err
    assert "next: reverie sample tokens --adapter a --label '<mine>'" in said.out
    assert reverie("sample tokens --adapter a --label <mine>,3 --n 2 --out with.png").code == 0
    assert reverie(f"adapt tokens mine --like 3 {QUICK} --out style").code == 0
    assert reverie("sample tokens --adapter style --label 5 --n 2 --out styled.png").code == 0
    assert files(tmp_path / "tokens") == before
    assert "by which token" in reverie(f"adapt tokens mine {QUICK} --out none").err
