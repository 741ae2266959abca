"""A run of gligen, taught on a model of classes or of texts, and drawn from by boxes; hints for models that read texts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import reverie as rv
from reverie.cli import main
from reverie.core import image_files
from reverie.diffusion.gligen import Gligen
from reverie.nets.controlnet import fingerprint
from reverie.recipes.runs import Run

from ..data.test_layouts import some, write

NET = "--net unet --net.width 8 --net.multipliers 1 2 --net.groups 4 --net.attention 2 --sample.steps 2 --data.size 8"
TEXT = "--data.captions --text.width 16 --text.depth 1 --text.heads 2"
SHORT = "--train.images 64 --train.batch 16 --train.lr 0.05 --train.processes 1 --train.sample-every 64 --train.validate-every 64"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures with boxes and captions, a base of each kind, and what each was taught."""
    folder = tmp_path_factory.mktemp("gligen")
    write(folder, some(32))
    for i in range(32):
        (folder / "pictures" / f"{i:02}.txt").write_text(f"two boxes, number {i}")
    pictures = folder / "pictures"
    for name, told in (("plain", ""), ("reads", TEXT)):
        assert main(f"train --data {pictures} {NET} {told} {SHORT} --out {folder / name}".split()) == 0
        captions = "--data.captions --data.size 8" if told else "--data.size 8"
        words = f"train gligen --base {folder / name} --data {pictures} --data.maps {folder / 'boxes.json'} {captions} --width 16 {SHORT}"
        assert main(f"{words} --out {folder / name}-boxes".split()) == 0
    return folder


@pytest.fixture
def hearing(monkeypatch) -> None:
    """Readers whose weights are random, so that boxes matter where training was short."""
    opened = Run.open

    def stirred(self: Run, *how):
        model, generator = opened(self, *how), torch.Generator().manual_seed(0)
        if isinstance(model, Gligen):
            with torch.no_grad():
                for parameter in model.net.parameters():
                    parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))
        return model

    monkeypatch.setattr(Run, "open", stirred)


def drawn(path: str) -> np.ndarray:
    return np.array(image_files.open_image(path)).astype(int)


@pytest.mark.parametrize(("name", "words"), [("plain", ""), ("reads", "--text twins")])
def test_it_is_drawn_from_by_boxes_and_says_so(folder, reverie, hearing, name, words):
    run = folder / f"{name}-boxes"
    for out, box in (("one", "red:0,0,0.4,0.4"), ("other", "red:0.6,0.6,1,1"), ("two", "blue:0,0,0.4,0.4")):
        said = reverie(f"sample {run} {words} --n 2 --out {out}.png --box {box}")
        assert said.code == 0, said.err
    assert (drawn("one.png") != drawn("other.png")).any() and (drawn("one.png") != drawn("two.png")).any()
    assert reverie("sample --like one.png --out again.png").code == 0
    assert (drawn("again.png") == drawn("one.png")).all()
    opened, base = rv.load(run), rv.load(folder / name)
    assert fingerprint(opened.base.net) == fingerprint(base.net) == opened.net.base
    assert (opened.net.classes is None) == (name == "reads")


def test_one_that_reads_texts_takes_any_words(folder, reverie, hearing):
    words = [
        "sample",
        str(folder / "reads-boxes"),
        "--text",
        "twins",
        "--n",
        "1",
        "--box",
        "a small green one:0,0,1,0.5",
    ]
    assert main([*words, "--out", "new.png"]) == 0
    assert main([*words[:-1], "another thing:0,0,1,0.5", "--out", "else.png"]) == 0
    assert (drawn("new.png") != drawn("else.png")).any()


def test_it_goes_on_where_it_stopped(folder, reverie):
    words = f"train gligen --base {folder / 'plain'} --data {folder / 'pictures'} --data.maps {folder / 'boxes.json'} --data.size 8"
    words += " --width 16 --train.batch 16 --train.save-every 32 --train.processes 1"
    assert reverie(f"{words} --train.images 64 --out whole").code == 0
    assert reverie(f"{words} --train.images 32 --out part").code == 0
    assert reverie(f"{words} --train.images 64 --extend --out part").code == 0
    one, other = (rv.load(name).net.state_dict() for name in ("whole", "part"))
    assert all((one[name] == other[name]).all() for name in one)


@pytest.mark.parametrize("task", ["controlnet", "sketch"])
def test_hints_are_for_models_that_read_texts_too(folder, reverie, task):
    said = reverie(f"train {task} --base {folder / 'reads'} {SHORT} --out hinted")
    assert said.code == 0, said.err
    lines = np.zeros((8, 8), np.uint8)
    lines[3] = 255
    Image.fromarray(lines).save("lines.png")
    said = reverie("sample hinted --text twins --hint lines.png:9 --steps 6 --n 1 --out led.png")
    assert said.code == 0, said.err
    assert reverie(f"sample {folder / 'reads'} --text twins --steps 6 --n 1 --out free.png").code == 0
    assert (drawn("led.png") != drawn("free.png")).any()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("sample PLAIN-boxes", "draws by boxes: `reverie sample RUN --box"),
        ("sample PLAIN-boxes --box rod:0,0,1,1", "'rod'"),
        ("sample PLAIN-boxes --box red:0,0,1,1 --map x.png", "leave --map and --canvas out"),
        ("train gligen --base PLAIN --data PICTURES --data.size 8", "--data.maps boxes.json"),
        ("train gligen --base PLAIN --data PICTURES --data.size 8 --data.maps MAPS", "--data.maps boxes.json"),
        ("train gligen --data PICTURES --data.size 8", "give --base RUN"),
    ],
)
def test_what_cannot_be_done_is_said(folder, reverie, words, part):
    where = {"PLAIN": folder / "plain", "PICTURES": folder / "pictures", "MAPS": folder / "maps"}
    where["PLAIN-boxes"] = folder / "plain-boxes"
    said = reverie(*(str(where.get(word, word)) for word in words.split()))
    assert said.code == 2 and part in " ".join(said.err.split()), said.err
