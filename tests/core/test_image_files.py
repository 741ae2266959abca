"""The one opener of pictures: which formats, how large, upright, and one kind of error whatever a file holds."""

import io
import os
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

import reverie
from reverie.core import image_files
from reverie.core.errors import InputError
from reverie.core.image_files import Unreadable
from reverie.core.text import shown

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(x) (w) file closefile\n%%EOF\n"


def noise(*shape: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def png(depth: int, header: tuple[int, int], colour: int, transparent: bytes, rows: bytes) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    about = struct.pack(">IIBBBBB", *header, depth, colour, 0, 0, 0)
    parts = [(b"IHDR", about), *([(b"tRNS", transparent)] if transparent else []), (b"IDAT", zlib.compress(rows))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in [*parts, (b"IEND", b"")])


def photo(*entries: bytes, extra: bytes = b"") -> bytes:
    """JPEG, 32x24, with EXIF: orientation 6 and further entries."""
    jpeg = encoded(Image.new("RGB", (32, 24), "red"), "JPEG")
    tags = b"".join([struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0), *entries])
    tiff = b"II*\0" + struct.pack("<IH", 8, 1 + len(entries)) + tags + struct.pack("<I", 0) + extra
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(tiff) + 8) + b"Exif\0\0" + tiff + jpeg[2:]


def test_postscript_is_no_picture(tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(POSTSCRIPT)
    with Image.open(path) as image:  # the control: Pillow would hand it on
        assert image.format == "EPS"
    with pytest.raises(Unreadable, match=r"photo\.png cannot be read as a picture: .* none of the formats JPEG"):
        image_files.open_image(path)


def test_pictures_are_opened_here_only():
    files = Path(reverie.__file__).parent.rglob("*.py")
    assert [path.name for path in files if re.search(r"Image\.open\(|Pillow\.open\(", path.read_text())] == [
        "image_files.py"
    ]


@pytest.mark.parametrize("sides", [(13_000, 13_000), (20_000, 10_000)])
def test_huge_pictures_are_refused_by_their_header(tmp_path, monkeypatch, sides):
    (tmp_path / "bomb.png").write_bytes(png(8, sides, 2, b"", bytes(1000)))
    loaded = []
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda image: loaded.append(image))
    with pytest.raises(Unreadable, match="more than 134 megapixels: make it smaller"):
        image_files.open_image(tmp_path / "bomb.png")
    assert not loaded


def test_only_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path, what in ((tmp_path / "pipe.png", "pipe or a device"), ("/dev/zero", "device"), (tmp_path, "folder")):
        with pytest.raises(Unreadable, match=what):
            image_files.open_image(path)
    with pytest.raises(Unreadable, match="no such file"):
        image_files.open_image(tmp_path / "none.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF", "TIFF", "GIF", "ICO", "JPEG2000", "BMP", "PSD", "QOI"])
def test_damaged_files_have_one_error(tmp_path, monkeypatch, kind):
    """Each of 200 single damaged bytes gives a picture or the one error, and no other exception."""
    monkeypatch.setattr(image_files, "LARGEST", 2**16)
    if kind == "PSD":
        header = struct.pack(">4sH6sHIIHH", b"8BPS", 1, bytes(6), 3, 16, 16, 8, 3)
        whole = header + bytes(12) + struct.pack(">H", 0) + bytes(3 * 256)
    else:
        whole = encoded(noise(16, 16, 3), kind)
    path, rng, outcomes = tmp_path / "a.png", np.random.default_rng(1), set()
    for place in {*range(min(60, len(whole))), *rng.integers(0, len(whole), 140).tolist()}:
        bad = bytearray(whole)
        bad[place] ^= 0x55
        path.write_bytes(bad)
        try:
            outcomes.add(type(image_files.open_image(path, "RGB")))
        except Unreadable as error:
            assert error.reason
            outcomes.add(Unreadable)
    assert Unreadable in outcomes
    path.write_bytes(whole)
    assert image_files.open_image(path, "RGB").size[1] == 16


def test_malformed_exif_costs_no_pixel(tmp_path):
    """The photos are read, and turned, as their orientation is sound; whatever byte of EXIF is damaged, the pixels are read."""
    path, at = tmp_path / "photo.jpg", 8 + 2 + 2 * 12 + 4
    fraction = struct.pack("<HHII", 0x011A, 10, 1, at)
    for content in (
        photo(fraction, extra=struct.pack("<ii", -1, 0)),
        photo(struct.pack("<HHI", 0x011A, 2, 4) + b"72\0\0"),
        photo(struct.pack("<HHII", 0x8769, 4, 1, 2**31)),
    ):
        path.write_bytes(content)
        assert image_files.open_image(path).size == (24, 32)
    whole = photo(fraction, extra=struct.pack("<ii", 72, 1))
    for place in range(whole.index(b"II*\0"), whole.index(b"\xff\xe0")):
        bad = bytearray(whole)
        bad[place] ^= 0xFF
        path.write_bytes(bad)
        picture = image_files.open_image(path, "RGB")
        assert sorted(picture.size) == [24, 32] and picture.getpixel((5, 5)) == (254, 0, 0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    noise(6, 9, 3).resize((90, 60)).save(tmp_path / "a", kind, exif=exif)
    with Image.open(tmp_path / "a") as image:
        right = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(np.asarray(image_files.open_image(tmp_path / "a")), right)


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_transparent_grey_of_any_depth(tmp_path, depth):
    """The upper half has the grey that is transparent, the lower half black: white above, black below."""
    value = {1: 1, 2: 2, 4: 5, 8: 5, 16: 5 * 257}[depth]
    pixels = value.to_bytes(2, "big") if depth == 16 else bytes([int(f"{value:0{depth}b}" * (8 // depth), 2)])
    row = b"\0" + pixels * (8 * depth // (8 * len(pixels)))
    rows = row * 4 + (b"\0" + bytes(len(row) - 1)) * 4
    (tmp_path / "a.png").write_bytes(png(depth, (8, 8), 0, struct.pack(">H", value), rows))
    shown_ = np.asarray(image_files.open_image(tmp_path / "a.png", "L"))
    assert (shown_[:4] == 255).all() and (shown_[4:] == 0).all()


def test_masks_of_two_values(tmp_path):
    """0 and 255, 0 and 1, 7 and 9, palettes, bits, 16 bits, floats, erased paint: all say the same."""
    white = np.ones((8, 6), bool)
    white[:4, :3] = False
    grey = [np.where(white, b, a).astype(np.uint8) for a, b in ((0, 255), (0, 1), (7, 9), (200, 201))]
    erased = np.dstack([np.full((8, 6, 3), 255, np.uint8), white * np.uint8(255)])
    masks = {f"{i}.png": Image.fromarray(values) for i, values in enumerate(grey)}
    masks |= {"bit.png": Image.fromarray(grey[0]).convert("1"), "palette.png": Image.fromarray(grey[0]).convert("P")}
    masks |= {
        "deep.png": Image.fromarray(white.astype(np.uint16)),
        "float.tif": Image.fromarray(white.astype(np.float32)),
    }
    masks |= {
        "erased.png": Image.fromarray(erased),
        "soft.png": Image.fromarray(grey[0]).resize((60, 80)).resize((6, 8)),
    }
    for name, mask in masks.items():
        mask.save(tmp_path / name)
        assert np.array_equal(image_files.read_mask(tmp_path / name), white), name
    exif = Image.Exif()
    exif[0x0112] = 6
    masks["0.png"].transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(image_files.read_mask(tmp_path / "turned.png"), white)
    for value in (0, 1, 255):
        Image.new("L", (8, 8), value).save(tmp_path / "same.png")
        with pytest.raises(InputError, match="black all over" if value == 0 else "of one value all over"):
            image_files.read_mask(tmp_path / "same.png")


def test_what_is_shown():
    assert (
        shown("a\x1b[31mred\x07 caf\udce9 \u202eright\n日本 é")
        == r"a\x1b[31mred\x07 caf\udce9 \u202eright" + "\n日本 é"
    )
