"""From a folder with maps, or a table of boxes, to a run that draws by them, is measured and reported, and goes on with the same ones."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import reverie as rv
from reverie.cli import main
from reverie.core import image_files
from reverie.recipes import measuring
from reverie.recipes.runs import Run

from ..data.test_layouts import some, write

NET = "--net.patch 2 --net.width 32 --net.depth 2 --net.heads 2 --data.size 8 --sample.steps 8 --sample.scale 1"
LONG = "--train.images 9600 --train.batch 32 --train.lr 0.004 --train.warmup 320"
SELDOM = "--train.validate-every 100000 --train.sample-every 100000"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layouts")
    write(folder, some(96))
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    """A transformer of 40,000 weights that has learned from maps for a few seconds."""
    words = (
        f"train --data {folder / 'pictures'} --data.maps {folder / 'maps'} {NET} {LONG} {SELDOM} --out {folder / 'run'}"
    )
    assert main(words.split()) == 0
    return folder / "run"


def drawn(where: Path) -> torch.Tensor:
    """Red minus blue of the pictures in a folder, (n, H, W) in [−2, 2]."""
    pictures = [np.array(image_files.open_image(path)) for path in sorted(where.glob("*.png"))]
    values = torch.from_numpy(np.stack(pictures)).float() / 127.5
    return values[..., 0] - values[..., 2]


def test_red_and_blue_are_drawn_where_the_map_has_them(run, folder, reverie, tmp_path):
    """On layouts that it has never seen; told none, it puts them anywhere."""
    write(tmp_path, some(16, seed=9))
    files = " ".join(f"maps/{i:02}.png" for i in range(16))
    assert reverie(f"sample {run} --n 16 --map {files} --out told").code == 0
    assert reverie(f"sample {run} --n 16 --out free").code == 0
    maps = torch.from_numpy(np.stack([np.array(Image.open(f"maps/{i:02}.png").resize((8, 8), 0)) for i in range(16)]))

    def agreement(pictures: torch.Tensor) -> float:
        return float(pictures[maps == 1].mean() - pictures[maps == 0].mean())

    told, free = drawn(tmp_path / "told"), drawn(tmp_path / "free")
    assert agreement(told) > 1.0
    assert agreement(told.roll(1, 0)) < 0.5 * agreement(told)  # the controls: the map of another, and none
    assert agreement(free) < 0.5 * agreement(told)


def test_boxes_are_told_in_words_and_the_picture_says_them(run, reverie, tmp_path):
    words = "--box red:0,0,0.4,0.4 --box blue:0.6,0.6,1,1"
    assert reverie(f"sample {run} {words} --n 8 --out told").code == 0
    told = drawn(tmp_path / "told")
    assert told[:, :3, :3].mean() > 0.5 and told[:, 5:, 5:].mean() < -0.5
    said = reverie(f"sample {run} --box blue:0,0,0.4,0.4 --box red:0.6,0.6,1,1 --n 8 --out other")
    assert said.code == 0 and drawn(tmp_path / "other")[:, :3, :3].mean() < -0.5
    assert reverie("sample --like told/0003.png --out again").code == 0
    assert torch.equal(drawn(tmp_path / "again")[0], told[3])
    assert reverie(f"sample {run} --scale 2 {words} --n 1 --out guided").code == 0
    Image.fromarray(np.zeros((8, 8), np.uint8)).save("all.png")
    assert reverie(f"sample {run} --map all.png --n 1 --out one").code == 0
    assert reverie("sample --like one/0000.png --out again-one").code == 0
    assert torch.equal(drawn(tmp_path / "again-one"), drawn(tmp_path / "one"))


class Means:
    """Features that need no weights."""

    name, dim = "means", 3

    def __call__(self, images):
        return images.mean((2, 3))


def test_it_is_measured_and_reported_by_the_maps_of_held_out_pictures(run, reverie, monkeypatch):
    asked = []
    monkeypatch.setattr(measuring, "extractor", lambda *_: Means())
    plain = measuring.evaluate
    monkeypatch.setattr(measuring, "evaluate", lambda *a, **k: (asked.append(k["told"]), plain(*a, **k))[1])
    measuring.measure(Run(run), n=12, seeds=(0,))
    held_out = measuring.sources.load(Run(run).recipe, "test")
    rows = [i % len(held_out) for i in range(12)]
    assert torch.equal(asked[0]["image"].value, held_out.batch(rows).cond["image"].value)
    assert reverie(f"report {run}").code == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "At the top the map that each column is told." in page and (run / "samples/report/maps.png").exists()
    assert reverie(f"report {run}").code == 0  # from what is kept
    assert (run / "report.html").read_text(encoding="utf-8").count("<img") == page.count("<img")


def test_it_goes_on_with_the_same_maps_only(folder, reverie, tmp_path):
    """Stopped and gone on with, a run is the same to the bit; with another map it is refused."""
    for part in ("pictures", "maps"):
        shutil.copytree(folder / part, part)
    words = f"train --data pictures --data.maps maps {NET} --train.batch 8 --train.save-every 32"
    assert reverie(f"{words} --train.images 64 --out whole").code == 0
    assert reverie(f"{words} --train.images 32 --out part").code == 0
    assert reverie(f"{words} --train.images 64 --extend --out part").code == 0
    one, other = (rv.load(name).net.state_dict() for name in ("whole", "part"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    Image.fromarray(np.zeros((16, 16), np.uint8)).save("maps/05.png")
    said = reverie("train part")
    assert said.code == 2 and "began with other pictures" in said.err


def test_what_suits_boxes_is_trained_without_a_word_of_the_network(folder, reverie):
    words = f"train --data {folder / 'pictures'} --data.maps {folder / 'boxes.json'} --data.size 8"
    said = reverie(f"{words} --train.images 64 --train.processes 1 --out suited")
    assert said.code == 0, said.err
    recipe = Run("suited").recipe
    assert recipe.task.prior is None and recipe.data.map_classes == ("blue", "red")
    assert rv.load("suited").conditions["image"].channels == 2


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("sample RUN --map there.png", "there.png"),
        ("sample RUN --map colours.png", "is told maps of classes"),
        ("sample RUN --map third.png", "has pixels of the class 2: the model knows 0 to 1, blue, red"),
        ("sample RUN --box rod:0,0,1,1", "'rod'"),
        ("sample RUN --box red:0,0,1,1 --map third.png", "--map and --box both say"),
        ("sample RUN --box red:0,0,1,1 --canvas 16 16", "leave --canvas out"),
        ("sample RUN --scale 3", "--scale guides towards"),
        ("sample PLAIN --box red:0,0,1,1", "this one is told none: train one with --data.maps FOLDER"),
        ("train --data PICTURES --data.maps nowhere", "neither a folder of maps nor a table of boxes"),
        ("train --data mnist5k --data.maps MAPS", "no names of files"),
        ("train vae --data PICTURES --data.maps MAPS", "the task vae learns from no maps"),
        ("train --data PICTURES --data.maps MAPS --prior 4", "leave prior and space out"),
        (
            "train --data PICTURES --data.maps MAPS --net jit --data.size 8 --net.patch 2",
            "needs a network that takes one",
        ),
        ("train --data PICTURES --data.maps MAPS --net.width 8 --augment 0.1", "leave augment out"),
    ],
)
def test_what_cannot_be_done_is_said(run, folder, trained, reverie, words, part):
    Image.fromarray(np.full((8, 8), 2, np.uint8)).save("third.png")
    Image.new("RGB", (8, 8)).save("colours.png")
    where = {"RUN": run, "PLAIN": trained, "PICTURES": folder / "pictures", "MAPS": folder / "maps"}
    said = reverie(*(str(where.get(word, word)) for word in words.split()))
    assert said.code == 2 and part in " ".join(said.err.split()), said.err
