"""``reverie restore`` and ``reverie sample --guide``: what they write, what they measure, and what they refuse."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reverie import data


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A digit with its mask, a small one, masks that are refused, and what is no picture."""
    digit = data.load("mnist5k", "test").images[3, 0].numpy()
    mask = np.full((28, 28), 255, np.uint8)
    mask[7:21, 7:21] = 0
    Image.fromarray(digit).save(tmp_path / "x.png")
    Image.fromarray(digit).resize((7, 7), Image.Resampling.BOX).save(tmp_path / "small.png")
    Image.fromarray(mask).save(tmp_path / "m.png")
    Image.fromarray(mask[:20]).save(tmp_path / "other.png")
    Image.new("L", (28, 28), 255).save(tmp_path / "white.png")
    Image.new("L", (28, 28), 0).save(tmp_path / "black.png")
    Image.new("1", (13_000, 13_000)).save(tmp_path / "huge.png")
    (tmp_path / "ps.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")
    return tmp_path


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


@pytest.mark.parametrize("method", ["pigdm", "repaint", "dps", "reddiff", "dflow"])
def test_inpainting_keeps_what_is_known(reverie, digits, pictures, method) -> None:
    said = reverie("restore digits --task inpaint --image x.png --mask m.png --out r.png --steps 20 --method", method)
    assert said.code == 0 and "r.png" in said.out and "backward passes a picture" in said.out
    restored, truth = read(pictures / "r.png"), read(pictures / "x.png")
    assert restored.shape == (28, 28)
    known = read(pictures / "m.png") > 127
    drawn = reverie("sample digits --label none --n 1 --out s") and read(pictures / "s" / "0000.png")
    near, far = (abs(each - truth)[known].mean() for each in (restored, drawn))
    if method != "dflow":  # which stays with what the model can draw, and this one can hardly draw
        assert near < (6 if method in ("pigdm", "repaint") else 0.8 * far)
    if method in ("pigdm", "reddiff"):
        assert f"20 evaluations and {20 - (method == 'reddiff') * 20 - (method == 'pigdm')} backward" in said.out


def test_super_resolution_comes_down_to_the_small_picture(reverie, digits, pictures) -> None:
    assert reverie("restore digits --task superres --image small.png --n 4 --steps 20 --out many").code == 0
    files = sorted((pictures / "many").iterdir())
    small = read(pictures / "small.png")
    assert len(files) == 4
    for file in files:
        down = read(file).reshape(7, 4, 7, 4).mean((1, 3))
        assert abs(down - small).mean() < 35  # this model has hardly learned black: clipping to 8 bits costs this much
    others = [abs(read(file).reshape(7, 4, 7, 4).mean((1, 3)) - small.T).mean() for file in files]
    assert min(others) > 40  # the control: another picture


def test_guides_by_words(reverie, digits, pictures) -> None:
    """Towards the target in its 7x7 pixels, with and without classifier-free guidance; the order of corrections is the order of words."""
    truth = read(pictures / "x.png").reshape(7, 4, 7, 4).mean((1, 3))

    def far(*words: str) -> float:
        said = reverie("sample digits --label 4 --n 1 --steps 20 --out g", *words)
        assert said.code == 0, said
        return float(abs(read(pictures / "g" / "0000.png").reshape(7, 4, 7, 4).mean((1, 3)) - truth).mean())

    plain = far("--guide cfg:3")
    assert far("--guide cfg:3 --guide energy:lowres --target x.png") < 0.7 * plain
    assert far("--guide energy:mask:0.5 --guide energy:colours --target x.png --mask m.png") < plain
    assert far("--scale 3") == plain


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("sample digits --label 4 --guide energy:lowrs --target x.png", ["unknown energy 'lowrs'", "Did you mean 'lowres'?"]),
        ("sample digits --label 4 --guide cgf:3", ["unknown guide 'cgf'", "Did you mean 'cfg'?"]),
        ("sample digits --label 4 --guide cfg", ["--guide cfg is not complete", "cfg:3"]),
        ("sample digits --label 4 --guide cfg:high", ["ends in a number", "'high'"]),
        ("sample digits --label 4 --guide energy:edges", ["give it with --target"]),
        ("sample digits --label 4 --guide energy:mask --target x.png", ["give it with --mask"]),
        ("sample digits --label 4 --scale 2 --guide cfg:3", ["in place of --scale"]),
        ("sample digits --label none --guide cfg:3", ["give --label"]),
        ("restore digits --task inpaint --image x.png", ["--mask goes with --task inpaint"]),
        ("restore digits --task deblur --image x.png --mask m.png", ["--mask goes with --task inpaint"]),
        ("restore digits --task inpaint --image x.png --mask other.png", ["28x20", "28x28", "of its size"]),
        ("restore digits --task inpaint --image none.png --mask m.png", ["none.png cannot be read"]),
        ("restore digits --task superres --image x.png --factor 3", ["does not divide", "28"]),
        ("restore digits --task colourise --image x.png", ["1 channel"]),
        ("restore digits --task superres --image small.png --method pigmd", ["pigmd", "Did you mean 'pigdm'?"]),
        ("restore digits --task superres --image small.png --n 0", ["--n", "at least 1"]),
        ("restore digits --task superres --image small.png --steps 0", ["steps", "at least 1"]),
        ("restore digits --task superres --image small.png --scale 2", ["--scale", "give --label"]),
        ("restore digits --task superres --image small.png --noise -1", ["at least 0"]),
        ("restore digits --task superres --image small.png --noise nan", ["noise", "finite", "got nan"]),
        ("restore digits --task superres --image small.png --noise inf --method dps", ["noise", "finite", "got inf"]),
        ("restore digits --task deblur --image x.png --blur inf", ["finite", "got inf"]),
        ("restore digits --task deblur --image x.png --blur nan", ["finite", "got nan"]),
        ("restore digits --task inpaint --image x.png --mask white.png", ["white.png", "of one value all over"]),
        ("restore digits --task inpaint --image x.png --mask black.png", ["black.png", "black all over"]),
        ("restore digits --task inpaint --image ps.png --mask m.png", ["ps.png cannot be read", "none of the formats"]),
        ("sample digits --label 4 --image huge.png", ["huge.png cannot be read", "megapixels"]),
        ("restore digits --task superres --image small.png --label 12", ["label 12 is out of range"]),
    ],
)  # fmt: skip
def test_bad_input(reverie, digits, pictures, words, parts) -> None:
    said = reverie(words)
    assert said.code == 2 and "Traceback" not in said.err
    for part in parts:
        assert part in said.err, (part, said.err)
    assert not (pictures / "restored.png").exists() and not (pictures / "samples.png").exists()
