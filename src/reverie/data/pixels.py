"""One picture of any kind to a square uint8 array: orientation, transparency, depth, resize and crop."""

from pathlib import Path
from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageOps

from reverie.core.errors import InputError

Fit = Literal["crop", "pad", "stretch"]
GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L")


def check(size: int | None, channels: int | None, fit: str) -> None:
    """Raise `InputError` for a size below 1, channels other than 1 or 3, or an unknown fit."""
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise InputError(f"size is the side of the square pictures in pixels, at least 1; got {size!r}.")
    if channels not in (None, 1, 3):
        raise InputError(f"channels is 1 (grey) or 3 (RGB); got {channels!r}.")
    if fit not in get_args(Fit):
        raise InputError(f"fit is one of {', '.join(get_args(Fit))}; got {fit!r}.")


def read(path: Path, size: int, channels: int, fit: Fit) -> np.ndarray:
    """Decode a file to uint8 (channels, size, size).

    The first frame is taken, EXIF orientation is applied, transparency is composited on white, 16-bit grey keeps its
    upper byte (rounded), everything else goes through Pillow's conversion to grey (ITU-R 601) or RGB.

    Raises OSError, SyntaxError, ValueError or Pillow's errors when the file cannot be decoded.
    """
    with Image.open(path) as image:
        return to_array(ImageOps.exif_transpose(image), size, channels, fit)


def to_array(image: Image.Image, size: int, channels: int, fit: Fit) -> np.ndarray:
    """A Pillow picture of any mode to uint8 (channels, size, size)."""
    array = np.asarray(fit_square(flatten(image, "L" if channels == 1 else "RGB"), size, fit))
    return array[None] if channels == 1 else array.transpose(2, 0, 1)


def flatten(image: Image.Image, mode: str) -> Image.Image:
    """An opaque 8-bit picture in `mode`, composited on white where the original is transparent."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; store the picture with 8 or 16 bits")
    if image.mode.startswith("I"):
        deep = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray(((deep * 255 + 32767) // 65535).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def fit_square(image: Image.Image, size: int, fit: Fit) -> Image.Image:
    """Resize to a square of `size` with Pillow's antialiased bicubic filter.

    * ``crop``: the short side becomes `size`, the centre is kept;
    * ``pad``: the long side becomes `size`, the picture is centred and its border pixels are repeated outwards;
    * ``stretch``: both sides become `size`.

    The filter matters for measures: see Parmar et al., "On Aliased Resizing and Surprising Subtleties in GAN
    Evaluation", CVPR 2022 (arXiv:2104.11222).
    """
    width, height = image.size
    if (width, height) == (size, size):
        return image
    if fit == "stretch":
        return image.resize((size, size), Image.Resampling.BICUBIC)
    if fit == "crop":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        return image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    scale = size / max(width, height)
    wide, high = max(1, round(width * scale)), max(1, round(height * scale))
    array = np.asarray(image.resize((wide, high), Image.Resampling.BICUBIC))
    left, top = (size - wide) // 2, (size - high) // 2
    border = ((top, size - high - top), (left, size - wide - left), (0, 0))[: array.ndim]
    return Image.fromarray(np.pad(array, border, mode="edge"))


def grey_header(image: Image.Image) -> bool:
    """Whether an opened, not yet decoded picture is grey by its mode."""
    return image.mode in GREY_MODES
