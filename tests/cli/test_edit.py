"""``reverie edit`` and ``reverie invert``: what they write and say, what stays, and what they refuse."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reverie import data
from reverie.edit import METHODS

REFUSED = {"p2p": "cross-attention", "pix2pix_zero": "cross-attention", "instruct": "reverie train instruct"}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A digit, a mask of its middle, and one of another size."""
    digit = data.load("mnist5k", "test").images[3, 0].numpy()
    mask = np.zeros((28, 28), np.uint8)
    mask[7:21, 7:21] = 255
    Image.fromarray(digit).save(tmp_path / "x.png")
    Image.fromarray(mask).save(tmp_path / "m.png")
    Image.fromarray(mask[:20]).save(tmp_path / "other.png")
    return tmp_path


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_edits_inside_the_mask_alone(reverie, digits, pictures, method):
    said = reverie(f"edit digits x.png --from 3 --to 8 --method {method} --mask m.png --steps 3 --scale 20 --out e.png")
    if method in REFUSED:
        assert said.code == 2 and REFUSED[method] in said.err and said.err.count("\n") == 1
        return
    assert said.code == 0, said.err
    before, after, inside = read(pictures / "x.png"), read(pictures / "e.png"), read(pictures / "m.png") > 0
    assert np.array_equal(before[~inside], after[~inside]) and (before != after)[inside].any()
    with Image.open(pictures / "e.png") as one, Image.open(pictures / "e-before-after.png") as both:
        told = json.loads(one.text["reverie"])
        assert told == json.loads(both.text["reverie"]) and both.width > 2 * both.height * 0.8
    assert told["verb"] == "edit" and told["settings"]["method"] == method and told["settings"]["to"] == "8"
    assert "evaluations" in said.out
    refused = reverie("sample --like e.png")
    assert refused.code == 2 and "does not say how it was drawn" in refused.err


def test_a_hole_is_filled_by_references(reverie, digits, pictures):
    (pictures / "others").mkdir()
    for i, image in enumerate(data.load("mnist5k", "test").images[4:6, 0].numpy()):
        Image.fromarray(image).save(pictures / "others" / f"{i}.png")
    said = reverie("edit digits x.png --from 3 --mask m.png --references others --steps 2 --out f.png")
    assert said.code == 0 and "filled by 2 references" in said.out, said.err
    before, after, inside = read(pictures / "x.png"), read(pictures / "f.png"), read(pictures / "m.png") > 0
    assert np.array_equal(before[~inside], after[~inside]) and (before != after)[inside].any()
    with Image.open(pictures / "f.png") as one:
        assert json.loads(one.text["reverie"])["settings"]["method"] == "realfill"
    for words, expected in (("", "give one, --mask"), ("--mask m.png", "no data set or folder")):
        said = reverie(f"edit digits x.png --references {'nowhere' if words else 'others'} {words}")
        assert said.code == 2 and expected in said.err


def test_a_picture_is_inverted_once_and_edited_often(reverie, digits, pictures):
    said = reverie("invert digits x.png --from 3 --steps 8 --out c.safetensors")
    assert said.code == 0 and "comes back to within 0.0" in said.out
    hint = re.search(r"next: reverie (edit digits c.safetensors --to 4)\n", said.out)
    assert hint and reverie(hint[1]).code == 0
    for to in (8, 3):
        assert reverie(f"edit digits c.safetensors --to {to} --out {to}.png").code == 0
    assert (
        abs(read(pictures / "3.png") - read(pictures / "x.png")).mean()
        < abs(read(pictures / "8.png") - read(pictures / "x.png")).mean()
    )
    said = reverie("edit digits c.safetensors --to 8 --method cycle")
    assert said.code == 2 and "it is by edict, the edit by cycle" in said.err
    assert reverie("invert digits x.png --from 3 --steps 4 --method edit_friendly").code == 0
    assert reverie("edit digits x.safetensors --to 8 --out f.png").code == 0
    with Image.open(pictures / "f.png") as one:
        assert json.loads(one.text["reverie"])["settings"]["method"] == "edit_friendly"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("edit digits x.png --to 11", "label 11 is out of range"),
        ("edit digits x.png --to 1,2", "--to is what one picture shows"),
        ("edit digits x.png --to 8 --mask other.png --method masked", "is 28x20, x.png is 28x28"),
        ("edit digits x.png --to 8 --method masked", "masked edits inside a mask"),
        ("edit digits x.png --to 8 --method magic", "unknown method 'magic'"),
        ("edit digits x.png --to 8 --method dds", "dds goes from one condition to another"),
        ("edit digits x.png --to 8 --method null_text", "null_text works on the null"),
        ("edit digits x.png --drag 3,4", "--drag is from:to"),
        ("edit digits x.png --drag 3,4:90,4", "(90, 4) is outside of the picture"),
        ("edit digits x.png --to 8 --out e.txt", "--out is a file ending in"),
        ("invert digits x.png --method magic", "unknown inversion 'magic'"),
        ("invert digits x.png --out c.png", "--out is a file ending in .safetensors"),
    ],
)
def test_what_cannot_be_said_yes_to(reverie, digits, pictures, words, message):
    said = reverie(words)
    assert said.code == 2 and message in said.err and said.err.count("\n") == 1, said.err
