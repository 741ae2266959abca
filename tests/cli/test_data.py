"""``reverie data``, as it is typed."""

import numpy as np
import pytest
from PIL import Image

from reverie.core import image_files


@pytest.fixture
def photos(tmp_path):
    for name in ("ape", "cat"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(3):
            shades = np.random.default_rng(i + 10 * ord(name[0])).integers(0, 256, (20, 30, 3), dtype=np.uint8)
            Image.fromarray(shades).save(tmp_path / "photos" / name / f"{i}.png")
    (tmp_path / "photos" / "ape" / "copy.png").write_bytes((tmp_path / "photos" / "ape" / "1.png").read_bytes())
    (tmp_path / "photos" / "cat" / "torn.png").write_bytes(b"\x89PNG")
    return tmp_path


def test_inspect_says_what_is_there_and_draws_it(photos, reverie):
    said = reverie("data inspect photos")
    assert said.code == 0, said.err
    for line in (
        "photos: 7 pictures (PNG 7)",
        "sizes: 30x20 7; the short sides from 20 to 20",
        "modes: RGB 7",
        "classes: ape 4, cat 3",
        "exact duplicates: 1 more than once, of 1 pictures",
        "  ape/1.png = ape/copy.png",
        "near duplicates: none",
        "left out: 1 files",
        "  cat/torn.png: it is damaged",
    ):
        assert any(found.startswith(line) for found in said.out.splitlines()), line
    sheet = image_files.open_image(photos / "photos-sheet.png")
    assert sheet.width == 2 * 98 - 2 and sheet.height > 3 * 98
    assert reverie("data inspect photos --out other.png").code == 0 and (photos / "other.png").is_file()


def test_pack_leads_to_training(photos, reverie):
    said = reverie("data pack photos shards --most 4")
    assert said.code == 0 and "left out cat/torn.png: it is damaged" in said.out
    assert "shards: 7 pictures in 2 shards; next: reverie train --data shards" in said.out
    again = reverie("data inspect shards")
    assert "classes: ape 4, cat 3" in again.out and "left out: nothing" in again.out
    net = "--data.size 8 --net.patch 4 --net.width 16 --net.depth 1 --net.heads 2 --sample.steps 2"
    short = "--train.images 8 --train.batch 4 --train.warmup 4 --train.processes 1"
    trained = reverie("train --data shards", net, short)
    assert trained.code == 0 and (photos / "runs" / "shards" / "recipe.yaml").is_file(), trained.err
    assert reverie("data pack photos shards").code == 2


def test_what_is_not_there_is_said(reverie, photos):
    assert "Did you mean 'inspect'" in reverie("data inspct photos").err
    assert "no data set or folder 'phots'" in reverie("data inspect phots").err
    assert "usage: reverie data WHAT" in reverie("data").out
    (photos / "notes.txt").write_text("")
    assert "is a file; a data set is" in reverie("data pack notes.txt out").err
