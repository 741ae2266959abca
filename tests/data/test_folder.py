"""Folders of pictures of every kind a person may have."""

import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from reverie import data
from reverie.core.errors import InputError
from reverie.data import decoding, pixels
from reverie.data.split import held_out

RED, WHITE = (255, 0, 0), (255, 255, 255)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8)


def one(path, **arguments) -> np.ndarray:
    """The only picture of a folder as (H, W, C) uint8."""
    pictures = data.load(path, "all", **arguments)
    assert len(pictures) == 1, pictures.skipped
    return pictures.images[0].permute(1, 2, 0).numpy()


def test_rgb_is_read_exactly(tmp_path):
    pixels_ = noise(12, 12, 3)
    Image.fromarray(pixels_).save(tmp_path / "a.png")
    assert np.array_equal(one(tmp_path), pixels_)


@pytest.mark.parametrize("suffix", ["bmp", "gif", "jpg", "png", "tif", "webp", "pgm"])
def test_grey_has_one_channel(tmp_path, suffix):
    Image.new("L", (12, 12), 90).save(tmp_path / f"a.{suffix}")
    picture = one(tmp_path)
    assert picture.shape == (12, 12, 1) and np.abs(picture.astype(int) - 90).max() <= 1


def test_grey_stored_as_rgb_or_palette_has_one_channel(tmp_path):
    grey = noise(8, 8)
    Image.fromarray(np.stack([grey] * 3, 2)).save(tmp_path / "rgb.png")
    Image.fromarray(grey).convert("P").save(tmp_path / "palette.png")
    pictures = data.load(tmp_path, "all")
    assert pictures.channels == 1
    assert all(np.array_equal(picture[0].numpy(), grey) for picture in pictures.images)


def test_one_coloured_picture_makes_all_rgb(tmp_path):
    Image.new("L", (8, 8), 90).save(tmp_path / "grey.png")
    Image.new("RGB", (8, 8), RED).save(tmp_path / "red.png")
    pictures = data.load(tmp_path, "all")
    assert pictures.images[:, :, 0, 0].tolist() == [[90, 90, 90], [255, 0, 0]]
    assert data.load(tmp_path, "all", channels=1).images[:, :, 0, 0].tolist() == [[90], [76]]


def test_transparency_is_composited_on_white(tmp_path):
    picture = Image.new("RGBA", (8, 8), (*RED, 0))
    picture.paste((*RED, 255), (4, 0, 8, 8))
    picture.paste((*RED, 51), (0, 4, 4, 8))
    picture.save(tmp_path / "a.png")
    shown = one(tmp_path)
    assert tuple(shown[0, 0]) == WHITE and tuple(shown[0, 7]) == RED and tuple(shown[7, 0]) == (255, 204, 204)


def test_transparent_palette_and_grey(tmp_path):
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 255, 0, 255, 0, 0])
    palette.paste(0, (0, 0, 4, 8))
    palette.save(tmp_path / "a.png", transparency=0)
    shown = one(tmp_path)
    assert tuple(shown[0, 0]) == WHITE and tuple(shown[0, 7]) == RED
    Image.new("LA", (8, 8), (0, 0)).save(tmp_path / "a.png")
    assert one(tmp_path).tolist() == np.full((8, 8, 1), 255).tolist()


def test_sixteen_bits_keep_their_upper_byte(tmp_path):
    deep = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(deep).save(tmp_path / "a.png")
    assert np.array_equal(one(tmp_path)[..., 0], np.rint(deep / 257))


@pytest.mark.parametrize("mode", ["1", "CMYK", "YCbCr"])
def test_other_modes_are_read(tmp_path, mode):
    Image.new("RGB", (8, 8), WHITE).convert(mode).save(tmp_path / "a.tif")
    assert one(tmp_path).min() >= 254


def test_exif_orientation_is_respected(tmp_path):
    picture = Image.new("RGB", (16, 16), WHITE)
    picture.paste(RED, (0, 0, 16, 8))
    exif = Image.Exif()
    exif[0x0112] = 3  # rotated by 180 degrees
    picture.save(tmp_path / "a.png", exif=exif)
    shown = one(tmp_path)
    assert tuple(shown[0, 0]) == WHITE and tuple(shown[15, 0]) == RED


def test_a_picture_of_the_right_size_is_its_pixels():
    noise = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    assert np.array_equal(pixels.to_array(Image.fromarray(noise), (5, 7), 3, "crop"), np.moveaxis(noise, 2, 0))
    grey = noise[..., 0].copy()
    assert np.array_equal(pixels.to_array(Image.fromarray(grey), (5, 7), 1, "crop"), grey[None])


def test_fit_policies():
    wide = Image.new("RGB", (40, 20), WHITE)
    wide.paste(RED, (0, 0, 10, 20))  # the quarter that a centre crop removes
    crop, pad, stretch = (pixels.to_array(wide, 20, 3, fit) for fit in ("crop", "pad", "stretch"))
    assert crop.shape == pad.shape == stretch.shape == (3, 20, 20)
    assert (crop[1, :, 1:] == 255).all()
    assert (stretch[1, :, 0] == 0).all() and (stretch[1, :, 10] == 255).all()
    assert (pad[1, :, 0] == 0).all() and (pad[1, 0] == pad[1, 10]).all() and (pad[1, 19] == pad[1, 10]).all()


def test_reduction_is_antialiased():
    """A one-pixel checkerboard reduced four times is flat grey; picking pixels would give black or white."""
    board = Image.fromarray((np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8))
    assert np.abs(pixels.to_array(board, 16, 1, "crop").astype(int) - 127).max() <= 2


def test_size_is_inferred_and_said(tmp_path):
    for index, (width, height) in enumerate([(40, 70), (50, 90), (200, 100)]):
        Image.fromarray(noise(height, width, 3)).save(tmp_path / f"{index}.png")
    mixed = data.load(tmp_path, "all")
    assert mixed.size == 32 and "median short side of 50" in mixed.notes[0]
    chosen = data.load(tmp_path, "all", size=48)
    assert chosen.size == 48 and chosen.notes == ["1 of 3 pictures are smaller than 48 pixels and were enlarged."]


def test_unreadable_files_are_skipped_and_listed(tmp_path):
    for index in range(4):
        Image.fromarray(noise(64, 64, 3)).save(tmp_path / f"{index}.png")
    whole = (tmp_path / "0.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "liar.jpg").write_text("not a picture")
    (tmp_path / "notes.txt").write_text("not meant as one")
    (tmp_path / ".hidden.png").write_bytes(b"")
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "float.tif")
    pictures = data.load(tmp_path, "all")
    assert len(pictures) == 4 and pictures.columns["path"] == [f"{index}.png" for index in range(4)]
    assert [item.path for item in pictures.skipped] == ["cut.png", "empty.jpg", "float.tif", "liar.jpg", "notes.txt"]
    assert all(item.reason for item in pictures.skipped)
    assert "5 of 9 files skipped" in pictures.notes[-1]


def test_classes_are_the_sub_folders(tmp_path):
    for name in ("cat", "ape/young", "ape/old"):
        (tmp_path / name).mkdir(parents=True)
        Image.new("L", (8, 8), len(name)).save(tmp_path / name / "a.png")
    pictures = data.load(str(tmp_path), "all")
    assert pictures.classes == ["ape", "cat"]
    assert dict(zip(pictures.columns["path"], pictures.labels.tolist(), strict=True)) == {
        "ape/old/a.png": 0, "ape/young/a.png": 0, "cat/a.png": 1,
    }  # fmt: skip
    Image.new("L", (8, 8)).save(tmp_path / "loose.png")
    with pytest.raises(InputError, match=r"3 pictures in sub-folders .* 1 beside them, such as loose"):
        data.load(tmp_path, "all")


def test_flat_folder_has_no_labels(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    pictures = data.load(tmp_path, "all")
    assert pictures.labels is None and pictures.classes == [] and pictures.batch([0]).label is None


def test_linked_class_folders_are_followed_once(tmp_path):
    real = tmp_path / "elsewhere"
    real.mkdir()
    Image.new("L", (8, 8)).save(real / "a.png")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "cat").symlink_to(real)
    (real / "round").symlink_to(tmp_path / "set")
    pictures = data.load(tmp_path / "set", "all")
    assert pictures.columns["path"] == ["cat/a.png"]


def test_a_new_file_moves_no_other(tmp_path):
    for index in range(60):
        Image.new("L", (8, 8), index).save(tmp_path / f"{index:02}.png")
    before = {split: data.load(tmp_path, split).columns["path"] for split in ("train", "test")}
    assert 1 <= len(before["test"]) <= 15 and len(before["train"]) + len(before["test"]) == 60
    assert before["test"] == [f"{index:02}.png" for index in range(60) if held_out(f"{index:02}.png")]
    Image.new("L", (8, 8), 200).save(tmp_path / "00b.png")
    after = {split: data.load(tmp_path, split).columns["path"] for split in ("train", "test")}
    for split in before:
        assert set(before[split]) == set(after[split]) - {"00b.png"}


def test_rows_labels_and_pictures_belong_together(tmp_path):
    for name, value in (("dark", 10), ("light", 200)):
        (tmp_path / name).mkdir()
        for index in range(30):
            Image.new("L", (8, 8), value + index).save(tmp_path / name / f"{index}.png")
    for split in ("train", "test", "all"):
        pictures = data.load(tmp_path, split)
        for row, (path, label) in enumerate(zip(pictures.columns["path"], pictures.labels.tolist(), strict=True)):
            name, file = path.split("/")
            assert pictures.classes[label] == name
            assert pictures.images[row, 0, 0, 0] == {"dark": 10, "light": 200}[name] + int(file[:-4])


def test_a_changed_file_is_decoded_again(tmp_path):
    Image.new("L", (8, 8), 1).save(tmp_path / "a.png")
    assert one(tmp_path).max() == 1
    Image.new("L", (8, 8), 2).save(tmp_path / "a.png")
    assert one(tmp_path).max() == 2


def test_big_folders_are_memory_mapped_and_equal(tmp_path, monkeypatch):
    for index in range(9):
        Image.fromarray(noise(16, 16, 3 + index)[..., :3]).save(tmp_path / f"{index}.png")
    small = data.load(tmp_path, "all")
    decoding.decoded.cache_clear()
    monkeypatch.setattr(decoding, "IN_MEMORY", 1000)
    big = data.load(tmp_path, "all")
    decoding.decoded.cache_clear()
    assert torch.equal(small.images, big.images)
    assert torch.equal(small.batch([8, 0]).x, big.batch([8, 0]).x)


@pytest.fixture
def keeping(tmp_path, monkeypatch):
    """A folder of 12 pictures, one of them broken, and a cache that keeps sets of 5."""
    monkeypatch.setenv("REVERIE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("reverie.data.keeping.KEPT_FROM", 5)
    monkeypatch.setattr("reverie.data.keeping.KEPT", 2)
    decoding.decoded.cache_clear()
    root = tmp_path / "set"
    root.mkdir()
    for index in range(11):
        Image.fromarray(noise(16, 16, 3 + index)[..., :3]).save(root / f"{index:02}.png")
    (root / "05b.png").write_bytes(b"nothing")
    yield root
    decoding.decoded.cache_clear()


def test_a_second_start_decodes_nothing(keeping, monkeypatch):
    first = data.load(keeping, "all")
    decoding.decoded.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "_decode", None)
        again = data.load(keeping, "all")
    assert torch.equal(first.images, again.images) and first.fingerprint == again.fingerprint
    assert (first.skipped, first.notes, first.columns) == (again.skipped, again.notes, again.columns)
    assert [item.path for item in again.skipped] == ["05b.png"] and len(again) == 11
    again.store[0] = 0  # a copy of this process's own
    decoding.decoded.cache_clear()
    assert torch.equal(data.load(keeping, "all").images, first.images)


def test_a_changed_or_damaged_set_is_decoded_again(keeping, tmp_path):
    first = data.load(keeping, "all")
    Image.fromarray(noise(16, 16, 99)[..., :3]).save(keeping / "03.png")
    changed = data.load(keeping, "all")
    assert not torch.equal(changed.images[3], first.images[3]) and torch.equal(changed.images[4:], first.images[4:])
    assert data.load(keeping, "all", size=8).shape == (3, 8, 8)
    kept = list((tmp_path / "cache" / "decoded").iterdir())
    assert len(kept) == 2  # the two that were used last
    for place in kept:
        (place / decoding.PICTURES).write_bytes(b"short")
    decoding.decoded.cache_clear()
    assert torch.equal(data.load(keeping, "all").images, changed.images)


def test_a_cache_without_room_costs_nothing_but_time(keeping, tmp_path):
    (tmp_path / "cache").write_text("a file where the cache should be")
    assert len(data.load(keeping, "all")) == 11


def test_missing_empty_and_wrong_folders_say_so(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(InputError, match=r"no folder .*photo\. Did you mean '.*photos'"):
        data.load(tmp_path / "photo")
    with pytest.raises(
        InputError, match=r"no pictures in .*photos: looked in it and its sub-folders for files in the formats JPEG"
    ):
        data.load(tmp_path / "photos")
    (tmp_path / "photos" / "a.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"none of the 1 pictures .* the first: a\.png: it is damaged"):
        data.load(tmp_path / "photos")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(InputError, match="is a file"):
        data.load(tmp_path / "notes.txt")


def test_a_picture_is_a_data_set_of_one(tmp_path):
    for i in range(3):
        Image.new("RGB", (8, 8), (80 * i, 0, 200)).save(tmp_path / f"{i}.png")
    one, every = data.load(tmp_path / "1.png", "all"), data.load(tmp_path, "all")
    assert len(one) == 1 and len(data.load(tmp_path / "1.png", "train")) == 1
    assert torch.equal(one.images[0], every.images[1]) and not torch.equal(one.images[0], every.images[2])


def test_a_class_is_not_held_out_whole(tmp_path):
    """One picture, or all that a class has, stays in training; what other classes hold out does not move."""
    names = [f"{index}.png" for index in range(60)]
    out = [name for name in names if held_out(f"a/{name}")]
    for folder_, some in (("a", names), ("b", [n for n in names if held_out(f"b/{n}")][:1]), ("c", ["0.png"])):
        (tmp_path / folder_).mkdir()
        for name in some:
            Image.new("L", (8, 8)).save(tmp_path / folder_ / name)
    train, test = (data.load(tmp_path, split) for split in ("train", "test"))
    assert test.columns["path"] == sorted(f"a/{name}" for name in out) and len(out) > 1
    assert set(train.labels.tolist()) == {0, 1, 2}
    single = next(name for name in names if held_out(name))
    (tmp_path / "flat").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "flat" / single)
    assert [len(data.load(tmp_path / "flat", split)) for split in ("train", "test")] == [1, 0]


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [("jpe", "JPEG"), ("apng", "PNG"), ("ico", "ICO"), ("j2k", "JPEG2000"), ("pcx", "PCX"), ("dds", "DDS"), ("qoi", "QOI"),
     ("sgi", "SGI"), ("tga", "TGA"), ("icns", "ICNS"), ("dib", "DIB"), ("JFIF", "JPEG"), ("mpo", "MPO"), ("avif", "AVIF"),
     ("webp", "WEBP"), ("pnm", "PPM")],
)  # fmt: skip
def test_formats_that_pillow_decodes_by_itself(tmp_path, suffix, kind):
    Image.new("RGB", (32, 32), (200, 40, 90)).save(tmp_path / f"a.{suffix}", kind)
    assert np.abs(one(tmp_path)[16, 16].astype(int) - (200, 40, 90)).max() <= 3


def test_what_is_no_file_is_listed_and_the_whole_disk_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    pictures = data.load(tmp_path, "all")
    assert len(pictures) == 1 and [item.path for item in pictures.skipped] == ["pipe.png", "zero.png"]
    with pytest.raises(InputError, match="whole disk"):
        data.load("/")
    with pytest.raises(InputError, match="name of the data is empty"):
        data.load("")


def test_names_of_any_bytes(tmp_path):
    """Latin-1 bytes and control characters: read and split as others, and never shown raw."""
    for name in (b"caf\xe9", b"e\x1b[31m"):
        os.makedirs(os.fsencode(tmp_path) + b"/" + name)
        for index in range(12):
            with open(os.fsencode(tmp_path) + b"/" + name + b"/%d.png" % index, "wb") as file:
                Image.new("L", (8, 8), index).save(file, "PNG")
    (tmp_path / "x\x1b[2J.txt").write_text("")
    pictures = data.load(tmp_path, "all")
    assert pictures.classes == [os.fsdecode(b"caf\xe9"), "e\x1b[31m"] and len(pictures) == 24
    assert len(pictures.fingerprint) == 64
    assert r"x\x1b[2J.txt" in pictures.notes[-1] and "\x1b" not in "".join(pictures.notes)


def test_the_fingerprint_tells_what_changed(tmp_path):
    """A copy with other times of change has the same; any picture added, removed, renamed, or changed in place another."""
    first = tmp_path / "a"
    for name in ("x", "y"):
        (first / name).mkdir(parents=True)
        for index in range(20):
            Image.fromarray(noise(8, 8, 3 + index)[..., :3]).save(first / name / f"{index}.bmp")
    before = data.load(first).fingerprint

    def copy(change) -> str:
        folder_ = tmp_path / f"copy{len(list(tmp_path.iterdir()))}"
        shutil.copytree(first, folder_, copy_function=shutil.copy)
        change(folder_)
        return data.load(folder_).fingerprint

    path = next(p for p in data.load(first).columns["path"] if p.startswith("x"))

    def flip(folder_):
        content = bytearray((folder_ / path).read_bytes())
        content[-5] ^= 1
        (folder_ / path).write_bytes(content)

    assert copy(lambda folder_: os.utime(folder_ / path, (1, 1))) == before
    changes = [
        flip,
        lambda folder_: (folder_ / path).unlink(),
        lambda folder_: (folder_ / path).rename(folder_ / f"{path}.bmp"),
        lambda folder_: (folder_ / "x").rename(folder_ / "z"),
        lambda folder_: shutil.copy(
            folder_ / path, folder_ / next(f"x/{i}.bmp" for i in range(20, 99) if not held_out(f"x/{i}.bmp"))
        ),
    ]
    others = [copy(change) for change in changes]
    others += [data.load(first, "test").fingerprint, data.load(first, size=4).fingerprint]
    others += [data.load(first, fit="pad").fingerprint, data.load(first, channels=1).fingerprint]
    assert len({before, *others}) == 1 + len(others)
    assert (
        data.load("mnist5k").fingerprint == data.load("mnist5k").fingerprint != data.load("mnist5k", "test").fingerprint
    )


def test_pictures_that_are_not_square(tmp_path):
    """Height before width: the crop, pad and stretch of a wide picture, against slices of it."""
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, :20, 0], wide[:, 20:40, 1], wide[:, 40:, 2] = 250, 250, 250
    Image.fromarray(wide).save(tmp_path / "a.png")
    assert np.array_equal(one(tmp_path, size=(20, 60)), wide)
    assert np.array_equal(one(tmp_path, size=(20, 20)), wide[:, 20:40])
    assert np.array_equal(one(tmp_path, size=(20, 40)), wide[:, 10:50])
    padded = one(tmp_path, size=(40, 60), fit="pad")
    assert np.array_equal(padded[10:30], wide) and (padded[0] == wide[0]).all() and (padded[39] == wide[19]).all()
    assert one(tmp_path, size=(10, 60), fit="stretch").shape == (10, 60, 3)
    pictures = data.load(tmp_path, "all", size=(8, 24))
    assert pictures.shape == (3, 8, 24)
    for size in ((8,), (8, 8, 8), (8, 0), (8.0, 8), "8"):
        if size != (8,):
            with pytest.raises(InputError, match="height and width"):
                data.load(tmp_path, size=size)
    assert data.load("mnist5k", "test", size=(14, 28)).shape == (1, 14, 28)
