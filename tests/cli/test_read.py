"""``reverie read``: what it prints and writes, and what it says of bad input."""

import json

import pytest
from PIL import Image

from reverie.read.probes.grid import Probed

QUICK = "--labels 40 --seeds 2 --pictures 60 --logsnr 4 -2"


def test_probe_prints_the_best_cell_and_writes_the_heat_map(reverie, digits):
    said = reverie("read probe digits", QUICK)
    assert said.code == 0, said.err
    assert "Best cell: blocks.0 at log SNR" in said.out and "untrained" in said.out and "95 %" in said.out
    probed = Probed.load(digits / "read" / "probe.json")
    assert (probed.labels, probed.seeds, probed.pictures, probed.classes) == (40, 2, 60, 10)
    svg = (digits / "read" / "heatmap.svg").read_text(encoding="utf-8")
    assert svg.count("<rect") == 2 * 2 + 2 and "blocks.0" in svg
    assert reverie("report digits").code == 0
    page = (digits / "report.html").read_text(encoding="utf-8")
    assert "What has it learned?" in page and "<svg xmlns" in page and "untrained" in page


def test_segment_writes_masks_and_measures_them(reverie, digits):
    said = reverie("read segment digits --labels 12 --pictures 12 --members 2 --t 0.1")
    assert said.code == 0, said.err
    assert "mean IoU" in said.out and "untrained" in said.out
    with Image.open(digits / "read" / "segment.png") as picture:
        assert picture.width > 10 * picture.height // 5
    assert reverie("report digits").code == 0
    page = (digits / "report.html").read_text(encoding="utf-8")
    assert "true and found masks" in page and "reverie read probe" in page


def folder_of_things(tmp_path):
    """Twenty pictures of 28x56 with a bar of class 1 and, at times, a block of class 2; masks beside them."""
    for name in ("things", "masks"):
        (tmp_path / name).mkdir()
    for i in range(20):
        picture, mask = Image.new("L", (56, 28), 40), Image.new("L", (56, 28), 0)
        for image, colours in ((picture, (250, 140)), (mask, (1, 2))):
            image.paste(colours[0], (4 + i, 3, 9 + i, 25))
            if i % 2:
                image.paste(colours[1], (40, 8, 52, 20))
        picture.save(tmp_path / "things" / f"{i}.png")
        mask.save(tmp_path / "masks" / f"{i}.png")


def test_panoptic_learns_things_from_masks_and_reads_by_windows(reverie, digits, tmp_path):
    folder_of_things(tmp_path)
    words = "read panoptic digits --data things --masks masks --labels 15 --steps 8 --batch 4 --size 28 56"
    said = reverie(words, "--names ground bar block --sites blocks.0")
    assert said.code == 0, said.err
    assert "Panoptic quality" in said.out and "an untrained network" in said.out and "ground: " in said.out
    with Image.open(digits / "read" / "panoptic.png") as picture:
        assert picture.width / picture.height > 56 / (3 * 28 + 20)
    assert "3 classes, --names gives 2" in reverie(words, "--names ground bar").err
    assert "28x28 pixels or more" in reverie(words.replace("--size 28 56", "--size 20 56")).err


def test_match_draws_the_lines(reverie, digits, tmp_path):
    for name in ("a", "b"):
        image = Image.new("L", (28, 28))
        image.paste(255, (8, 6, 20, 18) if name == "a" else (4, 8, 16, 20))
        image.save(tmp_path / f"{name}.png")
    said = reverie("read match a.png b.png --run digits --noises 1 --points 6")
    assert said.code == 0, said.err
    assert "places matched at blocks.0" in said.out
    with Image.open(tmp_path / "matches.png") as picture:
        assert picture.width > 2 * picture.height
    assert "no trained run" in reverie("read match a.png b.png").err
    assert "cannot be read" in reverie("read match a.png c.png --run digits").err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("read prob digits", "probe"),
        ("read probe digits --sites blocks.O", "blocks.0"),
        ("read probe digits --labels 5", "5 labels are too few for 10 classes"),
        ("read probe digits --labels 999999", "there are 4000"),
        ("read probe digits --head liner", "linear"),
        ("read probe digits --data nowhere", "nowhere"),
        ("read segment digits --masks nowhere", "no folder"),
        ("read segment digits --labels 3 --least 9999", "no class has 9999 labelled pixels"),
        ("read probe nowhere", "no run"),
    ],
)
def test_bad_input(reverie, digits, words, said):
    done = reverie(words)
    assert done.code == 2
    assert said in done.err


def test_a_heat_map_of_something_else(reverie, digits):
    (digits / "read").mkdir()
    (digits / "read" / "probe.json").write_text(json.dumps({"other": 1}))
    done = reverie("report digits")
    assert done.code == 2 and "holds no probe results" in done.err
