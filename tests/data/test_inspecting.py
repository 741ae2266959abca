"""What is found in a data set that holds known things, and shards that hold what they were made of."""

import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from reverie import data
from reverie.core.errors import InputError
from reverie.data import TensorSet, Wrapped
from reverie.data.inspecting import NEAR, inspect, similar
from reverie.data.packing import pack


def smooth(seed: int, side: int = 64) -> Image.Image:
    """A picture of large forms."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


@pytest.fixture
def pictures(tmp_path):
    """Two classes of ten; copies as another file, another format, another size, another compression; mirrored; broken."""
    root = tmp_path / "set"
    for name, first in (("ape", 0), ("cat", 100)):
        (root / name).mkdir(parents=True)
        for i in range(10):
            smooth(first + i).save(root / name / f"{i}.png")
    (root / "ape" / "copy.png").write_bytes((root / "ape" / "0.png").read_bytes())
    smooth(0).save(root / "cat" / "other.bmp")
    smooth(3).save(root / "ape" / "compressed.jpg", quality=85)
    smooth(4, 64).resize((40, 40), Image.Resampling.BICUBIC).save(root / "ape" / "smaller.png")
    smooth(5).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(root / "ape" / "mirrored.png")
    (root / "cat" / "broken.png").write_bytes(b"\x89PNG")
    (root / "notes.txt").write_text("")
    Image.new("L", (30, 50)).save(root / "cat" / "grey.png")
    return root


def test_counts_duplicates_and_what_cannot_be_read(pictures):
    found = inspect(pictures)
    assert len(found.kept) == 26 and found.formats == {"PNG": 24, "BMP": 1, "JPEG": 1}
    assert found.modes == {"RGB": 25, "L": 1} and found.sizes == {(64, 64): 24, (40, 40): 1, (30, 50): 1}
    assert found.classes == {"ape": 14, "cat": 12}
    assert found.exact == [["ape/0.png", "ape/copy.png", "cat/other.bmp"]]
    assert found.near == [["ape/3.png", "ape/compressed.jpg"], ["ape/4.png", "ape/smaller.png"]]
    assert [item.path for item in found.skipped] == ["cat/broken.png", "notes.txt"]


def test_what_is_near_is_all_that_is_near():
    """The window over means leaves nothing out: groups are those of all pairs, and other pictures are apart."""
    thumbnails = np.stack([np.asarray(smooth(i, 16)) for i in range(300)])
    assert similar(thumbnails) == []
    moved = thumbnails[[7, 80, 80]].astype(int) + np.random.default_rng(0).integers(-5, 6, (3, 16, 16, 3))
    every = np.concatenate([thumbnails, moved.clip(0, 255).astype(np.uint8)])
    flat = torch.from_numpy(every.reshape(len(every), -1)).double()
    close = torch.cdist(flat, flat) / flat.shape[1] ** 0.5 < NEAR
    assert similar(every) == [[7, 300], [80, 301, 302]]
    assert close.sum() == len(every) + 2 * 3  # of the last two each is near to what both were made of


def test_the_sheet_has_a_column_a_class(pictures):
    images, columns, names = inspect(pictures).sheet(side=20)
    assert names == ["ape", "cat"] and columns == 2 and images.shape == (12, 3, 20, 20)
    assert torch.equal(
        images[0],
        torch.from_numpy(np.array(smooth(0).resize((20, 20), Image.Resampling.BICUBIC))).permute(2, 0, 1) / 127.5 - 1,
    )


def test_shards_hold_what_they_were_made_of(pictures, tmp_path):
    packed = pack(pictures, tmp_path / "shards", most=10)
    assert (packed.shards, packed.pictures) == (3, 26) and [s.path for s in packed.skipped] == [
        "cat/broken.png",
        "notes.txt",
    ]
    for split in ("train", "test"):
        a, b = data.load(pictures, split, size=32), data.load(tmp_path / "shards", split, size=32)
        assert a.columns == b.columns and torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)
        assert a.classes == b.classes == ["ape", "cat"]
    with tarfile.open(tmp_path / "shards" / "shard-000000.tar") as shard:  # as another reader sees it
        members = [(member.name, shard.extractfile(member).read()) for member in shard]
    assert members[0] == ("ape/0.png", (pictures / "ape/0.png").read_bytes()) and members[1] == ("ape/0.cls", b"0")
    pack(pictures, tmp_path / "again", most=10)
    for path in (tmp_path / "again").iterdir():
        assert path.read_bytes() == (tmp_path / "shards" / path.name).read_bytes()
    with pytest.raises(InputError, match="is there already"):
        pack(pictures, tmp_path / "shards")


def test_names_with_dots_or_of_one_key_stay_apart(tmp_path):
    (tmp_path / "set").mkdir()
    for number, name in enumerate(["a.1.png", "a.2.png", "b.png", "b.jpg"]):
        smooth(number).save(tmp_path / "set" / name)
    pack(tmp_path / "set", tmp_path / "shards")
    pictures = data.load(tmp_path / "shards", "all")
    assert pictures.columns["path"] == ["a_1.png", "a_2.png", "b.jpg", "b_2.png"] and pictures.labels is None


def test_sets_of_torch_become_shards(tmp_path):
    """Pictures and labels from Python are there to train on, evaluate and resume with, to the bit."""
    grey = np.random.default_rng(0).integers(0, 256, (7, 9, 8), np.uint8)
    items = [(Image.fromarray(picture), i % 2) for i, picture in enumerate(grey)]
    pack(Wrapped(items, ["even", "odd"]), tmp_path / "shards", most=3)
    pictures = data.load(tmp_path / "shards", "all", size=(9, 8))
    assert np.array_equal(pictures.images[:, 0].numpy(), grey)
    assert pictures.labels.tolist() == [i % 2 for i in range(7)] and pictures.classes == ["even", "odd"]
    with pytest.raises(InputError, match="shards are of pictures"):
        pack(TensorSet(torch.zeros(3, 4)), tmp_path / "waves")
    assert not (tmp_path / "waves").exists()


def test_nothing_that_can_be_read(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.png").write_bytes(io.BytesIO().getvalue())
    for work in (inspect, lambda path: pack(path, tmp_path / "out")):
        with pytest.raises(InputError, match=r"none of the (1 )?pictures"):
            work(tmp_path / "set")
    assert not (tmp_path / "out").exists()
