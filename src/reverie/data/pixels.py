"""One picture of any kind to a uint8 array of given height and width: resize and crop."""

from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from reverie.core import image_files
from reverie.core.errors import InputError
from reverie.core.text import shown

Fit = Literal["crop", "pad", "stretch"]
Size = int | tuple[int, int]
"""Height and width in pixels, or the side of a square."""
GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L")


def check_options(size: Size | None, channels: int | None, fit: str) -> None:
    """Raise `InputError` for a size below 1, channels other than 1 or 3, or an unknown fit."""
    if size is not None:
        sides(size)
    if channels not in (None, 1, 3):
        raise InputError(f"channels is 1 (grey) or 3 (RGB); got {channels!r}.")
    if fit not in get_args(Fit):
        raise InputError(f"fit is one of {', '.join(get_args(Fit))}; got {fit!r}.")


def sides(size: Any) -> tuple[int, int]:
    """(height, width) of a size.

    Raises InputError if it is neither one whole number nor two, at least 1.
    """
    given = tuple(size) if isinstance(size, tuple | list) else (size,)
    if len(given) not in (1, 2) or any(
        isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in given
    ):
        raise InputError(
            f"size is the side of square pictures in pixels, or height and width, at least 1; got {size!r}."
        )
    return given[0], given[-1]


def read(path: Path, size: Size, channels: int, fit: Fit) -> np.ndarray:
    """Decode a file to uint8 (channels, height, width).

    The first frame is taken, EXIF orientation is applied, transparency is composited on white, 16-bit grey keeps its
    upper byte (rounded), everything else goes through Pillow's conversion to grey (ITU-R 601) or RGB.

    Raises `reverie.core.image_files.Unreadable` when the file cannot be decoded.
    """
    return to_array(image_files.open_image(path, _mode(channels)), size, channels, fit)


def to_array(image: Image.Image, size: Size, channels: int, fit: Fit) -> np.ndarray:
    """A Pillow picture of any mode to uint8 (channels, height, width)."""
    array = np.empty((channels, *sides(size)), np.uint8)
    write(image, fit, array)
    return array


def write(image: Image.Image, fit: Fit, out: np.ndarray) -> None:
    """A Pillow picture of any mode into uint8 (channels, height, width)."""
    mode = _mode(len(out))
    fitted = fit_to(image_files.flatten(image, mode), out.shape[1:], fit)
    for plane, band in zip(
        out, mode, strict=True
    ):  # "R", "G" and "B" are raw modes: cheaper than all three and a transposition
        plane[:] = np.frombuffer(fitted.tobytes("raw", band), np.uint8).reshape(plane.shape)


def fit_to(
    image: Image.Image, size: tuple[int, int], fit: Fit, filter: Image.Resampling = Image.Resampling.BICUBIC
) -> Image.Image:
    """Resize to (height, width) with Pillow's antialiased bicubic filter, or another.

    * ``crop``: the picture covers `size`, the centre is kept;
    * ``pad``: the picture lies within `size`, centred, and its border pixels are repeated outwards;
    * ``stretch``: both sides become those of `size`.

    The filter matters for measures: see Parmar et al., "On Aliased Resizing and Surprising Subtleties in GAN
    Evaluation", CVPR 2022 (arXiv:2104.11222).
    """
    (height, width), (high, wide) = (image.height, image.width), size
    if (height, width) == size:
        return image
    if fit == "stretch":
        return image.resize((wide, high), filter)
    if fit == "crop":
        left = (width - min(width, height * wide / high)) / 2
        top = (height - min(height, width * high / wide)) / 2
        return image.resize((wide, high), filter, box=(left, top, width - left, height - top))
    scale = min(high / height, wide / width)
    inner_wide, inner_high = max(1, round(width * scale)), max(1, round(height * scale))
    array = np.asarray(image.resize((inner_wide, inner_high), filter))
    left, top = (wide - inner_wide) // 2, (high - inner_high) // 2
    border = ((top, high - inner_high - top), (left, wide - inner_wide - left), (0, 0))[: array.ndim]
    return Image.fromarray(np.pad(array, border, mode="edge"))


def read_mask(path: Path, of: Path | None, what: str, size: Size, fit: Fit) -> np.ndarray:
    """The mask of a picture as it is seen, brought to a size as the picture is: bool (height, width), true where it is white.

    Args:
        of: the picture, without one its size is not compared.
        what: white says of a pixel, in words.

    Raises:
        InputError: when it cannot be read, is not of the size of the picture, or is of one value there.
    """
    white = image_files.read_mask(path)
    if of is not None and white.shape != (seen := image_files.open_image(of).size[::-1]):
        raise InputError(
            f"the mask {shown(path)} is {white.shape[1]}x{white.shape[0]}, {shown(of)} is {seen[1]}x{seen[0]} as it is seen: "
            f"draw one of its size, white where it is {what}"
        )
    height, width = sides(size)
    mask = np.array(fit_to(Image.fromarray(white * np.uint8(255)), (height, width), fit)) > 127
    if mask.all() or not mask.any():
        raise InputError(
            f"of the mask {shown(path)} {'nothing black' if mask.all() else 'nothing white'} is left in the "
            f"{width}x{height} pixels of the model: draw it larger, and where the picture is not cut off"
        )
    return mask


def enlarges(image: tuple[int, int], size: tuple[int, int], fit: Fit) -> bool:
    """Whether a picture of (width, height) grows when it is brought to `size`, (height, width), along the side that `fit` goes by."""
    growth = (size[0] / image[1], size[1] / image[0])
    return (min if fit == "pad" else max)(growth) > 1


def grey_header(image: Image.Image) -> bool:
    """Whether an opened, not yet decoded picture is grey by its mode."""
    return image.mode in GREY_MODES


def _mode(channels: int) -> str:
    return "L" if channels == 1 else "RGB"
