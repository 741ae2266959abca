"""bench/compositions.py calls planted pictures by their colour, and no pair new that training has."""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from reverie.measure.figures import percent

from ..margin import apart

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
from compositions import COLOURS, colour, greyed, groups, oklab, pair, row

TWEMOJI = {
    "red": (221, 46, 68),
    "orange": (244, 144, 12),
    "yellow": (253, 203, 88),
    "green": (120, 177, 89),
    "blue": (85, 172, 238),
    "purple": (170, 142, 214),
    "brown": (193, 105, 79),
    "black": (49, 55, 61),
}
"""The colours of its circles."""


def planted(rgb: tuple[int, int, int], share: float = 0.4) -> Tensor:
    """A block of a colour on white, with a green leaf and a grain of noise."""
    image = torch.ones(3, 32, 32)
    image[:, :, : int(32 * share)] = torch.tensor(rgb)[:, None, None] / 127.5 - 1
    image[:, :2, :8] = torch.tensor(TWEMOJI["green"])[:, None, None] / 127.5 - 1
    return image + 0.02 * torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", COLOURS)
def test_a_planted_colour_is_called_by_its_name(name: str):
    image = planted(TWEMOJI[name])
    assert colour(image) == colour(planted(TWEMOJI[name], share=0.9)) == name
    assert (colour(image[[1, 2, 0]]) == name) == (name == "black")


def test_white_has_no_colour():
    assert colour(torch.ones(3, 32, 32)) is None
    assert colour(-torch.ones(3, 32, 32)) == "black"


def test_without_colours_the_form_is_left():
    red, blue, narrow = (greyed(planted(TWEMOJI[c], s)[None]) for c, s in (("red", 0.6), ("blue", 0.6), ("blue", 0.3)))
    assert float((red - blue).abs().mean()) < 0.02 < float((narrow - blue).abs().mean()) / 10
    assert (greyed(torch.ones(1, 3, 8, 8)) == 1).all()


def test_oklab():
    """White and the primaries, as CSS Color 4 has them."""
    primaries = [[0.627955, 0.224863, 0.125846], [0.866440, -0.233888, 0.179498], [0.452014, -0.032457, -0.311528]]
    known = torch.tensor([[1.0, 0.0, 0.0], *primaries])
    rgb = torch.cat([torch.ones(1, 3), torch.eye(3)])
    torch.testing.assert_close(oklab(rgb), known, atol=2e-4, rtol=0)
    assert apart(oklab(rgb.flip(1)), known) > 0.1


def test_pairs():
    assert pair("large purple circle") == pair("purple small circle") == ("purple", "circle")
    for other in ("heavy black heart", "black heart suit", "black scissors", "circle", "purple face"):
        assert pair(other) is None
    train, test = ["large red circle", "red circle", "blue cat"], ["small red circle", "black cat", "a dog"]
    found = groups(train, test, {("green", "dog")})
    assert found["trained"] == {("red", "circle"): "large red circle", ("blue", "cat"): "blue cat"}
    assert found["held out"] == {("black", "cat"): "black cat"}
    others = found["nobody's"]
    assert ("green", "fish") in others and others["green", "fish"] == "green fish"
    assert not {("red", "circle"), ("blue", "cat"), ("black", "cat"), ("green", "dog")} & set(others)


def test_a_row_counts_colour_thing_and_both():
    pairs = [("red", "cat"), ("red", "cat"), ("blue", "dog"), ("blue", "dog")]
    counted = row("new", "samples", pairs, ["red", "red", None, "blue"], ["cat", "dog", "cat", "cat"])
    assert counted == f"| new | samples | 4 | {percent(0.75)} | {percent(0.25)} | {percent(0.25)} |"
