"""Masks and pictures meet as they are seen: upright, of one size, and neither all known nor all unknown."""

import numpy as np
import pytest
import torch
from PIL import Image

from reverie.cli import main
from reverie.core.errors import InputError
from reverie.recipes.recipe import DataConfig, Recipe
from reverie.recipes.sources import known, picture, splits

PORTRAIT = (64, 48)
"""Height and width as the photo is seen."""


@pytest.fixture
def photos(tmp_path):
    """A portrait as a phone stores it (64x48, orientation 6) and upright; the mask leaves the upper left quarter unknown."""
    seen = np.zeros((*PORTRAIT, 3), np.uint8)
    seen[:, :24, 0], seen[:32, :, 1] = 220, 120
    mask = np.full(PORTRAIT, 255, np.uint8)
    mask[:32, :24] = 0
    exif = Image.Exif()
    exif[0x0112] = 6
    turn = Image.Transpose.ROTATE_90
    Image.fromarray(seen).transpose(turn).save(tmp_path / "phone.png", exif=exif)
    Image.fromarray(seen).save(tmp_path / "upright.png")
    Image.fromarray(mask).save(tmp_path / "seen.png")
    Image.fromarray(mask).transpose(turn).save(tmp_path / "stored.png")
    Image.fromarray(mask).transpose(turn).save(tmp_path / "tagged.png", exif=exif)
    return tmp_path


def recipe(size, fit="stretch") -> Recipe:
    return Recipe(data=DataConfig(size=size, channels=3, fit=fit))


@pytest.mark.parametrize("photo", ["phone.png", "upright.png"])
@pytest.mark.parametrize("mask", ["seen.png", "tagged.png"])
def test_a_mask_lies_as_it_was_drawn(photos, photo, mask):
    right = torch.ones(16, 12)
    right[:8, :6] = 0
    assert torch.equal(known(photos / mask, photos / photo, recipe((16, 12)))[0, 0], right)
    assert torch.equal(picture(photos / photo, recipe((16, 12))), picture(photos / "upright.png", recipe((16, 12))))


@pytest.mark.parametrize("photo", ["phone.png", "upright.png"])
def test_a_mask_of_the_stored_size_is_refused(photos, photo):
    with pytest.raises(InputError, match=r"stored\.png is 64x48, .*png is 48x64 as it is seen"):
        known(photos / "stored.png", photos / photo, recipe(16))


def test_a_mask_is_cropped_with_its_picture(photos):
    """The crop to a square keeps rows 8 to 55 of 64; unknown rows that it cuts off leave nothing to fill."""
    kept = known(photos / "seen.png", photos / "phone.png", recipe(48, "crop"))[0, 0]
    assert kept.sum() == 48 * 48 - 24 * 24 and not kept[:24, :24].any()
    mask = np.full(PORTRAIT, 255, np.uint8)
    mask[:8] = 0
    Image.fromarray(mask).save(photos / "top.png")
    with pytest.raises(InputError, match=r"top\.png nothing black is left in the 48x48"):
        known(photos / "top.png", photos / "phone.png", recipe(48, "crop"))


def test_an_empty_name_of_data_is_refused(tmp_path, monkeypatch, capsys):
    """Not the run's own data, and not the folder one is in."""
    monkeypatch.chdir(tmp_path)
    Image.new("L", (8, 8)).save("a.png")
    with pytest.raises(InputError, match="name of the data is empty"):
        splits(Recipe(), "")
    assert main(["train", "--data", ""]) == 2 and "name of the data is empty" in capsys.readouterr().err
