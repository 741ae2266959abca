"""Pictures that are not square, from the flag to the files: height before width."""

import numpy as np
import pytest
from PIL import Image

SMALL = "--net.width 16 --net.depth 1 --net.heads 2 --net.patch 4 --train.images 64 --train.batch 32 --sample.steps 2"


@pytest.fixture
def wide(tmp_path):
    """Pictures whose left half is light and whose right half is dark, 40 high and 60 wide, and a mask."""
    rng = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / "d" / name).mkdir(parents=True)
        for index in range(12):
            pixels = np.full((40, 60, 3), 30, np.uint8)
            pixels[:, :30] = rng.integers(150, 250, 3)
            Image.fromarray(pixels).save(tmp_path / "d" / name / f"{index}.png")
    mask = np.full((40, 60), 255, np.uint8)
    mask[:20, :30] = 0
    Image.fromarray(mask).save(tmp_path / "m.png")
    return tmp_path


def size(path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def test_a_run_of_wide_pictures(reverie, wide) -> None:
    """It trains, goes on, samples, restores and is reported; the known pixels of the restored picture lie where they were."""
    train = f"train --data d --data.size 16 24 {SMALL} --out run"
    for _ in range(2):
        said = reverie(train)
        assert said.code == 0, said
    assert "size:\n  - 16\n  - 24" in (wide / "run" / "recipe.yaml").read_text()
    assert reverie("sample run --label a --n 2 --steps 2 --out s").code == 0
    assert size(wide / "s" / "0000.png") == (24, 16)
    said = reverie("restore run --task inpaint --image d/a/0.png --mask m.png --steps 8 --out r.png")
    assert said.code == 0, said
    with Image.open(wide / "r.png") as image:
        restored = np.asarray(image).astype(int)
    with Image.open(wide / "d/a/0.png") as image:
        colour = np.asarray(image)[0, 0].astype(int)
    assert np.abs(restored[10:, :11] - colour).max() < 12 and np.abs(restored[:, 13:] - 30).max() < 12
    assert reverie("restore run --task superres --factor 4 --image d/a/0.png --steps 4 --out u.png").code == 0
    assert size(wide / "u.png") == (24, 16)
    said = reverie("restore run --task superres --factor 6 --image d/a/0.png")
    assert said.code == 2 and "--factor 6 does not divide the model's 16 x 24 pixels" in said.err
    assert reverie("report run").code == 0
    assert "16 × 24 pixels" in (wide / "run" / "report.html").read_text(encoding="utf-8")


def test_a_side_alone_is_a_square(reverie, wide) -> None:
    assert reverie(f"train --data d --data.size 16 {SMALL} --out run").code == 0
    assert "size: 16\n" in (wide / "run" / "recipe.yaml").read_text()
    said = reverie(f"train --data d --data.size 16 24 {SMALL} --out run")
    assert said.code == 2 and "data.size" in said.err and "[16, 24]" in said.err
    assert reverie(f"train --data d --data.size 0 24 {SMALL} --out other").code == 2
