"""Pairs before and after an edit: what the model draws, and a data set of it."""

import json

import pytest
import torch

import reverie as rv
from reverie.core.batch import DataSpec
from reverie.core.condition import Text
from reverie.core.errors import InputError
from reverie.diffusion.config import DenoisingConfig
from reverie.edit import Instruction, inversion, pairs
from reverie.edit.guidance import guide
from reverie.edit.pairs import pair
from reverie.nets.config import TextConfig, UNetConfig
from reverie.solve import DDIM

from ..margin import apart


@pytest.fixture(scope="module")
def model():
    """It reads texts, and says noise."""
    spec = DataSpec((3, 8, 8), {"text": Text(40)})
    net = UNetConfig(width=8, multipliers=(1, 2), blocks=1, attention=(1,), heads=2, groups=4)
    built = DenoisingConfig(net=net, text=TextConfig(width=8, depth=1, heads=2)).build(spec, 0)
    with torch.no_grad():
        for p in built.net.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    return built


def test_what_is_drawn_is_kept_and_comes_back(model):
    cond = model.conditioner("a red circle")
    code = inversion.drawn(model, 2, cond, 4, scale=3.0, seed=[5, 9])
    assert torch.allclose(rv.edit.reconstruct(model, code), code.images, atol=1e-3)
    straight = rv.sample(guide(model, 3.0), 2, cond, DDIM(), 4, seed=[5, 9], progress="")
    assert torch.allclose(code.images, straight, atol=0.05)
    other = rv.sample(guide(model, 3.0), 2, cond, DDIM(), 4, seed=[6, 9], progress="")
    assert apart(code.images[0], other[0]) > 0.2


def test_a_pair_of_equal_captions_is_equal_and_of_others_is_not(model):
    before, after = pair(model, Instruction("a red circle", "a red circle", "leave it"), [0, 1], steps=4)
    assert torch.allclose(before, after, atol=1e-3)
    before, after = pair(model, Instruction("a red circle", "a blue circle", "make it blue"), [0, 1], steps=4)
    assert apart(before, after) > 1e-3


def test_pairs_are_a_data_set_of_pictures_side_by_side(model, tmp_path):
    told = [Instruction("a red circle", "a blue circle", "make it blue"), Instruction("a cross", "a square", "square")]
    folder = pairs(model, told, tmp_path / "pairs", 2, steps=2)
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    assert [line["text"] for line in lines] == ["make it blue"] * 2 + ["square"] * 2
    data = rv.data.load(folder, "all", size=(8, 16)).with_captions()
    assert len(data) == 4 and data.texts == [line["text"] for line in lines]
    with pytest.raises(InputError, match="there already"):
        pairs(model, told, folder)


def test_pairs_that_are_not_kept_are_not_there(model, tmp_path):
    told = [Instruction("a red circle", "a blue circle", "make it blue")]
    folder = pairs(model, told, tmp_path / "some", 3, steps=2, keep=lambda a, b, i: torch.tensor([True, False, True]))
    assert len(rv.data.load(folder, "all")) == 2
    with pytest.raises(InputError, match="no pair was kept"):
        pairs(model, told, tmp_path / "none", 2, steps=2, keep=lambda a, b, i: torch.zeros(2, dtype=torch.bool))
    assert not (tmp_path / "none").exists()
