"""A run of sketch: taught on the model of another run, drawn from along lines, guided or not."""

from pathlib import Path

import numpy as np
from PIL import Image

from reverie.cli import main
from reverie.core import image_files

SMALL = "--net dit --net.patch 4 --net.width 16 --net.depth 1 --net.heads 2 --sample.steps 3"
SHORT = "--train.images 64 --train.batch 32 --train.save-every 64 --train.validate-every 64 --train.sample-every 64"


def test_a_run_draws_along_lines(tmp_path: Path, capsys):
    base, taught = tmp_path / "base", tmp_path / "taught"
    assert main(f"train --data digits8 {SMALL} {SHORT} --out {base}".split()) == 0
    assert main(f"train sketch --base {base} --width 8 {SHORT} --out {taught}".split()) == 0
    lines = np.zeros((8, 8), np.uint8)
    lines[3] = 255
    Image.fromarray(lines).save(tmp_path / "lines.png")

    def drawn(name: str, words: str) -> np.ndarray:
        assert main(f"sample {taught} --label 3 --n 2 --seed 1 --out {tmp_path / name} {words}".split()) == 0
        return np.array(image_files.open_image(tmp_path / name)).astype(int)

    hint = f"--hint {tmp_path / 'lines.png'}"
    still, led = drawn("still.png", f"{hint}:0"), drawn("led.png", f"{hint}:0.8")
    assert still.shape == led.shape and np.abs(still - led).max() > 3
    capsys.readouterr()
    assert main(f"sample {taught} --label 3 --out {tmp_path / 'none.png'}".split()) == 2
    assert "`reverie sample RUN --hint FILE`" in capsys.readouterr().err
