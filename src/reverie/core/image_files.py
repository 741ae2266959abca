"""The one opener of pictures: what a file holds, upright, of bounded size, or :class:`Unreadable` whatever is wrong with it.

Pillow opens a file as whatever it contains, hands PostScript to Ghostscript, and its readers raise all kinds of exceptions on damaged
files and metadata. Only the formats listed here are tried; the size is refused by the header, before memory is taken.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reverie.core.errors import InputError
from reverie.core.text import shown

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

FORMATS = (
    *(
        "JPEG",
        "PNG",
        "WEBP",
        "GIF",
        "BMP",
        "TIFF",
        "AVIF",
        "JPEG2000",
        "ICO",
        "ICNS",
        "CUR",
        "DIB",
        "DDS",
        "PCX",
        "PPM",
        "PSD",
    ),
    *("QOI", "SGI", "SUN", "XBM", "XPM", "TGA"),
)
"""What Pillow decodes by itself: no other program, no stub, no file within a file of any kind."""
WRITTEN = (".png", ".jpg", ".jpeg", ".webp")
"""Endings of the files that pictures are written to."""
LARGEST = 2**27
"""Pixels a picture may have: 134 megapixels, more than the largest sensors in use."""
ORIENTATION = 0x0112
"""The EXIF tag."""


class Unreadable(InputError):
    """A file that cannot be read as a picture; ``reason`` says why, without the file's name."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{shown(path)} cannot be read as a picture: {reason}")
        self.reason = reason


@cache
def suffixes() -> frozenset[str]:
    """Endings of the names of such files, in lower case: ``.png``, ``.apng``, …"""
    from PIL import Image

    Image.init()
    return frozenset(end for end, name in Image.registered_extensions().items() if name in (*FORMATS, "MPO"))


@contextmanager
def opened(path: Path, content: bytes | None = None) -> Iterator["Image.Image"]:
    """The picture as its header describes it, not decoded yet.

    Args:
        path: of the file.
        content: what it holds, where it is no file of its own.

    Raises:
        Unreadable: for a folder, pipe or device, another format, too many pixels, and whatever Pillow raises here and inside the block.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        if content is None and not path.is_file():
            raise ValueError(_not_a_file(path))
        Image.init()
        with (
            warnings.catch_warnings(action="ignore"),
            Image.open(
                path if content is None else BytesIO(content), formats=[name for name in FORMATS if name in Image.OPEN]
            ) as image,
        ):
            if image.width * image.height > LARGEST:
                raise Image.DecompressionBombError
            yield image
    except Unreadable:
        raise
    except Image.DecompressionBombError as error:
        raise Unreadable(path, f"it has more than {LARGEST / 1e6:.0f} megapixels: make it smaller first") from error
    except UnidentifiedImageError as error:
        raise Unreadable(path, f"it is damaged, or in none of the formats {', '.join(FORMATS)}") from error
    except Exception as error:
        raise Unreadable(path, _reason(error)) from error


def open_image(path: str | Path, mode: str | None = None, content: bytes | None = None) -> "Image.Image":
    """The picture, decoded and upright: its first frame, turned as EXIF says; malformed EXIF is passed over. With ``mode`` as
    :func:`flatten` gives it. ``content`` is what it holds, where it is no file of its own.

    Raises:
        Unreadable: see :func:`opened`.
    """
    with opened(Path(path).expanduser() if content is None else Path(path), content) as image:
        depth = _grey_depth(image)
        image.load()
        if depth is not None and "transparency" in image.info:  # PNG counts it in steps of the file's own depth
            image.info["transparency"] *= 255 // (2**depth - 1)
        upright = _upright(image)
        return upright if mode is None else flatten(upright, mode)


def flatten(image: "Image.Image", mode: str, ground: str = "white") -> "Image.Image":
    """The picture with 8 bits in ``mode`` (L, RGB, or RGBA as it is), composited on ``ground`` where it is transparent.

    Of 16-bit grey the upper byte is kept, rounded.

    Raises:
        ValueError: for floating-point pixels, whose range is not known.
    """
    from PIL import Image

    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; store the picture with 8 or 16 bits")
    if image.mode.startswith("I"):
        image = _shallow(image)
    if mode == "RGBA" or not image.has_transparency_data:
        return image if image.mode == mode else image.convert(mode)  # which would copy it
    image = image.convert("RGBA")
    opaque = Image.new("RGB", image.size, ground)
    opaque.paste(image, mask=image)
    return opaque.convert(mode)


def seen_size(image: "Image.Image") -> tuple[int, int]:
    """(width, height) of an opened picture as it is seen: turned as EXIF says."""
    try:
        turned = image.getexif().get(ORIENTATION) in (5, 6, 7, 8)
    except Exception:  # the pixels are fine
        turned = False
    return (image.height, image.width) if turned else image.size


def texts(path: Path) -> dict[str, str]:
    """What a picture's file says in words beside its pixels, by keys (the text chunks of a PNG).

    Raises:
        Unreadable: see :func:`opened`.
    """
    with opened(path) as image:
        return {str(key): str(value) for key, value in image.info.items() if isinstance(value, str)}


def read_mask(path: str | Path) -> "np.ndarray":
    """Where a mask is white: bool (H, W), upright like the picture that it was drawn on.

    White is what is lighter than halfway between the mask's darkest and its lightest value, so that 0 and 255, 0 and 1, or any other two
    values serve. What was erased to transparent is black.

    Raises:
        Unreadable: see :func:`opened`; InputError: when all of it has one value.
    """
    import numpy as np

    image = open_image(path)
    deep = image.mode == "F" or (image.mode.startswith("I") and "transparency" not in image.info)
    values = np.asarray(image if deep else flatten(image, "L", "black")).astype(np.float64)
    low, high = values.min(), values.max()
    if not low < high:
        raise InputError(
            f"the mask {shown(path)} is {'black' if high == 0.0 else 'of one value'} all over: it is white where the picture is known, "
            "and black or erased elsewhere"
        )
    return values > (low + high) / 2.0


def _not_a_file(path: Path) -> str:
    if not path.exists():
        return "there is no such file"
    return "it is a folder" if path.is_dir() else "it is a pipe or a device, no file"


def _grey_depth(image: "Image.Image") -> int | None:
    """Bits a pixel of an undecoded grey PNG of 2 or 4 bits, whose transparent value Pillow does not bring to 8 as the pixels."""
    tiles: Any = getattr(image, "tile", None)
    raw = tiles[0][3] if image.format == "PNG" and tiles else None
    return int(raw[2:]) if raw in ("L;2", "L;4") else None


def _upright(image: "Image.Image") -> "Image.Image":
    from PIL.Image import Transpose

    try:
        orientation = image.getexif().get(ORIENTATION)
    except Exception:  # the pixels are fine
        orientation = None
    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    turn = turns.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _shallow(image: "Image.Image") -> "Image.Image":
    """16-bit grey (or 32-bit, clipped) as 8 bits, with alpha if one value is transparent."""
    import numpy as np
    from PIL import Image

    deep = np.array(image, np.int32)
    transparent = image.info.get("transparency")
    alpha = None if transparent is None else Image.fromarray(np.where(deep == transparent, 0, 255).astype(np.uint8))
    deep = deep.clip(0, 65535, out=deep)
    deep *= 255
    deep += 32767
    deep //= 65535
    grey = Image.fromarray(deep.astype(np.uint8))
    return grey if alpha is None else Image.merge("LA", (grey, alpha))


def _reason(error: BaseException) -> str:
    return shown(" ".join(str(error).split())) or type(error).__name__
