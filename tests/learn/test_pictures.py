"""rv.to_pil, rv.show and rv.save: the pixels, the grid, its headings, and what is no picture."""

import numpy as np
import pytest
import torch
from PIL import Image

import reverie as rv
from reverie.core.errors import InputError
from reverie.learn.grid import TEXT, tile

RAMP = torch.linspace(-1.5, 1.5, 2 * 3 * 6 * 8).reshape(2, 3, 6, 8)


def test_a_picture_is_its_pixels_clipped():
    first, second = rv.to_pil(RAMP)
    assert first.mode == "RGB" and first.size == (8, 6)
    expected = ((RAMP[1].clamp(-1, 1) + 1) * 127.5).round().permute(1, 2, 0)
    assert np.array_equal(np.asarray(second), expected.numpy())
    (grey,) = rv.to_pil(RAMP[0, :1])
    assert grey.mode == "L"


def test_show_is_a_grid_with_words_above_its_columns():
    plain, headed = (
        rv.show(RAMP.repeat(3, 1, 1, 1), columns=3),
        rv.show(RAMP.repeat(3, 1, 1, 1), headings=["a", "b", "c"]),
    )
    assert headed.size == (plain.width, plain.height + TEXT + 6)
    below = headed.crop((0, TEXT + 6, headed.width, headed.height))
    assert np.array_equal(np.asarray(below), np.asarray(plain))
    strip = np.asarray(headed.convert("L"))[: TEXT + 6]
    third = plain.width // 3
    inked = [strip[:, i * third : (i + 1) * third].min() < 100 for i in range(3)]
    assert inked == [True] * 3
    assert np.asarray(rv.show(RAMP, headings=["", "x"]).convert("L"))[: TEXT + 6, :third].min() == 255


def test_a_heading_stays_in_its_column():
    headed = rv.show(RAMP, headings=["a name far wider than the picture below it", ""])
    strip = np.asarray(headed.convert("L"))[: TEXT + 6]
    middle = headed.width // 2
    assert strip[:, :middle].min() < 100 and strip[:, middle:].min() == 255


def test_save_one_as_it_is_several_in_a_grid_and_a_folder(tmp_path):
    assert rv.save(RAMP[0], tmp_path / "one.png") == [tmp_path / "one.png"]
    with Image.open(tmp_path / "one.png") as one:
        assert np.array_equal(np.asarray(one), np.asarray(rv.to_pil(RAMP)[0]))
    rv.save(RAMP, str(tmp_path / "grid.webp"))
    rv.save(RAMP, tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as sheet:
        assert np.array_equal(np.asarray(sheet), np.asarray(tile(RAMP, 2)))
    files = rv.save(RAMP, tmp_path / "many")
    assert [file.name for file in files] == ["0000.png", "0001.png"] and all(file.is_file() for file in files)
    with Image.open(files[1]) as second:
        assert np.array_equal(np.asarray(second), np.asarray(rv.to_pil(RAMP)[1]))


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (RAMP * 127.5, "holds values up to 191"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), "x / 127.5 - 1 of bytes: got torch.uint8"),
        (torch.zeros(2, 4, 4, 4), "with 1 or 3 channels: got"),
        (torch.zeros(4, 4), "with 1 or 3 channels: got"),
    ],
)
def test_what_is_no_picture(images, said, tmp_path):
    for use in (rv.to_pil, rv.show, lambda x: rv.save(x, tmp_path / "x.png")):
        with pytest.raises(InputError, match=said):
            use(images)
    with pytest.raises(InputError, match=r"ending in \.png"):
        rv.save(RAMP, tmp_path / "x.txt")
    assert not list(tmp_path.iterdir())
