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
