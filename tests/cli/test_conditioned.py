"""Palette, ControlNet and cascades by the command line: what is trained is drawn from, and what does not fit is said."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import reverie as rv
from reverie.cli import main
from reverie.core import files
from reverie.core.errors import InputError
from reverie.diffusion.control import Control
from reverie.learn.checkpoint import Checkpoints
from reverie.nets.controlnet import fingerprint

SHORT = "--train.images 96 --train.batch 32 --train.warmup 32 --train.validate-every 96 --train.sample-every 96"
NET = "--net.width 8 --net.multipliers 1 1 --net.groups 4"


@pytest.fixture(scope="module")
def restoring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("palette") / "filling"
    assert main(f"train palette --data mnist5k --op inpaint {NET} {SHORT} --out {folder}".split()) == 0
    return folder


@pytest.fixture(scope="module")
def steered(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("controlnet") / "steered"
    assert main(f"train controlnet --base {trained} --hint edges {SHORT} --train.lr 0.01 --out {folder}".split()) == 0
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    digit = rv.data.load("mnist5k", "test").images[3, 0].numpy()
    mask = np.full((28, 28), 255, np.uint8)
    mask[7:21, 7:21] = 0
    Image.fromarray(digit).save(tmp_path / "x.png")
    Image.fromarray(digit[4:24]).save(tmp_path / "small.png")
    Image.fromarray(mask).save(tmp_path / "m.png")
    return tmp_path


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


def test_a_run_of_palette_restores(restoring, reverie, pictures):
    """What is known stays to the last bit; elsewhere something is drawn, other for another seed."""
    words = f"restore {restoring} --image x.png --mask m.png --steps 3"
    said = reverie(words, "--out a.png")
    assert said.code == 0, said.err
    assert reverie(words, "--seed 1 --out b.png").code == 0 and reverie(words, "--n 3 --out many").code == 0
    a, b, x, known = (read(pictures / f"{name}.png") for name in ("a", "b", "x", "m"))
    assert (a[known > 0] == x[known > 0]).all()
    assert (a[known == 0] != b[known == 0]).any()
    assert abs(read(pictures / "many" / "0000.png") - a).max() <= 1 and (pictures / "a-before-after.png").is_file()
    assert (restoring / "samples").is_dir()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("restore RUN --image x.png", ["--mask goes with --task inpaint"]),
        ("restore RUN --image x.png --mask m.png --method dps", ["has learned to restore, and takes no --method"]),
        ("restore RUN --image x.png --mask m.png --task deblur", ["has learned inpaint: leave --task deblur out"]),
        ("restore RUN --image x.png --mask m.png --reference x.png", ["trained without a reference"]),
        ("sample RUN", ["draws what a damaged picture may have been", "reverie restore"]),
        ("train palette --data mnist5k --op colourise", ["only pictures of 3 channels can be colourised"]),
        ("train palette --data mnist5k --op superres --factor 3", ["--factor 3 does not divide 28x28"]),
        ("train palette --data mnist5k --net uvit", ["use dit or unet"]),
    ],
)
def test_what_palette_cannot_do_is_said(restoring, reverie, pictures, words, parts):
    said = reverie(words.replace("RUN", str(restoring)))
    assert said.code == 2 and all(part in said.err for part in parts), said.err


def test_a_hint_is_drawn_by(steered, trained, reverie, pictures):
    """The same noise with and without; a weight of 0 is the base, to the bit; the picture says how it was drawn."""
    base = reverie(f"sample {trained} --label 3 --n 2 --out base") and pictures / "base" / "0000.png"
    for name, word in (("one", "x.png"), ("none", "x.png:0"), ("twice", "x.png:0.5")):
        said = reverie(f"sample {steered} --hint {word} --label 3 --n 2 --out {name}")
        assert said.code == 0, said.err
    one, none, twice, plain = (
        read(path) for path in (*(pictures / n / "0000.png" for n in ("one", "none", "twice")), base)
    )
    assert (none == plain).all() and (one != plain).any() and (one != twice).any()
    assert reverie(f"sample {trained} --hint {steered}=x.png --label 3 --n 2 --out other").code == 0
    assert (read(pictures / "other" / "0000.png") == one).all()
    assert reverie("sample --like one/0000.png --out again.png").code == 0
    assert (read(pictures / "again.png") == one).all()
    assert reverie(f"sample {steered} --hint x.png --hint {steered}=x.png:0.5 --label 3 --n 2 --out both").code == 0


def test_the_run_keeps_the_base_and_knows_it(steered, trained, tmp_path):
    """Its checkpoint holds none of the base's weights, and its copy of the base, changed, is refused."""
    opened = rv.load(steered)
    assert isinstance(opened, Control)
    held = Checkpoints(steered / "checkpoints").latest().tensors("model")
    assert held and all(name.startswith("control.") for name in held)
    base = rv.load(trained)
    assert opened.net.base == fingerprint(base.net) == fingerprint(opened.base.net)
    assert torch.equal(opened.base.net.embed.weight, base.net.embed.weight)
    copied = shutil.copytree(steered, tmp_path / "changed")
    path = copied / "teacher.safetensors"
    weights = files.read_tensors(path)
    files.write_tensors(path, {k: v + 0.01 if k.startswith("embed") else v for k, v in weights.items()}, {})
    with pytest.raises(InputError, match="its base is"):
        rv.load(copied)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("sample STEERED --label 3", ["draws by a hint", "--hint FILE"]),
        ("sample STEERED --label 3 --hint small.png", ["small.png is 28x20", "pictures are 28x28"]),
        ("sample STEERED --label 3 --hint there.png", ["there.png"]),
        ("sample BASE --label 3 --hint x.png", ["has learned no hints", "reverie train controlnet --base RUN"]),
        ("train controlnet --data mnist5k", ["give --base RUN"]),
    ],
)
def test_what_a_hint_cannot_do_is_said(steered, trained, reverie, pictures, words, parts):
    said = reverie(words.replace("STEERED", str(steered)).replace("BASE", str(trained)))
    assert said.code == 2 and all(part in said.err for part in parts), said.err


def test_another_base_is_refused(steered, restoring, reverie, pictures, tmp_path):
    other = tmp_path / "other"
    words = "--net.patch 14 --net.width 16 --net.depth 1 --net.heads 2 --seed 5"
    assert reverie(f"train --data mnist5k {words} {SHORT} --out {other}").code == 0
    said = reverie(f"sample {other} --label 3 --hint {steered}=x.png")
    assert said.code == 2 and "trained on a model of other weights" in said.err
    said = reverie(f"train controlnet --base {restoring}")
    assert said.code == 2 and "begins with a diffusion model" in said.err


@pytest.fixture(scope="module")
def cascade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base of 14x14 and a stage that doubles it."""
    folder = tmp_path_factory.mktemp("cascade")
    base = (
        "train --data mnist5k --data.size 14 --net.patch 7 --net.width 16 --net.depth 1 --net.heads 2 --sample.steps 2"
    )
    stage = f"train palette --data mnist5k --op superres --factor 2 --augment {NET} --sample.steps 2"
    assert main(f"{base} {SHORT} --out {folder / 'base'}".split()) == 0
    assert main(f"{stage} {SHORT} --out {folder / 'stage'}".split()) == 0
    return folder


def test_a_cascade_enlarges_what_was_drawn(cascade, trained, reverie, pictures):
    """Twice as large, the same again from its own text, other at another level; picture i is the same whatever n is."""
    words = f"sample {cascade / 'base'} --label 3"
    for name, then in (
        ("one", "--then STAGE --n 2"),
        ("noisy", "--then STAGE:0.8 --n 2"),
        ("alone", "--then STAGE --n 1"),
    ):
        said = reverie(words, then.replace("STAGE", str(cascade / "stage")), "--out", name)
        assert said.code == 0, said.err
    one, noisy, alone = (read(pictures / name / "0000.png") for name in ("one", "noisy", "alone"))
    assert one.shape == (28, 28) and (one != noisy).any() and abs(one - alone).max() <= 1
    assert reverie("sample --like one/0001.png --out again.png").code == 0
    assert (read(pictures / "again.png") == read(pictures / "one" / "0001.png")).all()
    assert reverie(words, "--n 1 --out small").code == 0 and read(pictures / "small" / "0000.png").shape == (14, 14)
    for then, part in (
        (f"{trained}", "enlarges nothing"),
        (f"{cascade / 'stage'}:1.5", "level of noise is 0 to 1"),
        (f"{cascade / 'stage'} --then {cascade / 'stage'}", "enlarges 2 times to 1x28x28: what was drawn is 1x28x28"),
    ):
        said = reverie(words, f"--n 1 --then {then}")
        assert said.code == 2 and part in said.err, said.err


def test_an_adapter_is_trained_and_drawn_by(reverie, pictures):
    words = f"train --data mnist5k --net unet {NET} --net.blocks 1 --sample.steps 2 {SHORT} --out base"
    assert reverie(words).code == 0
    said = reverie(f"train controlnet --base base --light --hint shapes {SHORT} --train.lr 0.01 --out light")
    assert said.code == 0, said.err
    said = reverie("sample light --label 3 --n 1 --hint x.png --out a")
    assert said.code == 0, said.err
    assert reverie("sample base --label 3 --n 1 --out b").code == 0
    assert (read(pictures / "a" / "0000.png") != read(pictures / "b" / "0000.png")).any()
