"""Samples as pictures: ``rv.to_pil``, ``rv.show``, ``rv.save``."""

import math
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from PIL import Image
from torch import Tensor

from reverie.core.errors import InputError
from reverie.core.image_files import WRITTEN
from reverie.core.tensors import check_range
from reverie.learn import grid


def to_pil(images: Tensor) -> list[Image.Image]:
    """Each picture of (N, C, H, W) or (C, H, W) in [−1, 1], C = 1 or 3, as a Pillow image of its own size, clipped.

    Raises:
        InputError: for tensors of another shape, or numbers far outside [−1, 1].
    """
    return [grid.to_picture(pixels) for pixels in grid.to_bytes(_pictures(images))]


def show(images: Tensor, columns: int | None = None, headings: Sequence[str] = ()) -> Image.Image:
    """Pictures in a grid, as one Pillow image, which a notebook displays; ``.show()`` opens it elsewhere. Small ones are enlarged.

    Args:
        images: (N, C, H, W) or (C, H, W) in [−1, 1].
        columns: by default one a heading, or about as many as rows.
        headings: words above the columns.

    Raises:
        InputError: see :func:`to_pil`, and for no columns.
    """
    images = _pictures(images)
    columns = columns or len(headings) or math.ceil(math.sqrt(len(images)))
    if columns < 1:
        raise InputError(f"a grid has at least 1 column: got {columns}")
    columns = min(columns, len(images))
    return grid.tile(images, columns, headings=headings[:columns])


def save(
    images: Tensor, path: str | PathLike[str], columns: int | None = None, headings: Sequence[str] = ()
) -> list[Path]:
    """Write pictures: one (C, H, W) to a file as it is, several (N, C, H, W) to a file in a grid, or to a folder, a file each.

    Args:
        images: in [−1, 1].
        path: a file ending in one of :data:`reverie.core.image_files.WRITTEN`, or a folder, which has no ending.
        columns, headings: of the grid, see :func:`show`.

    Returns:
        The files.

    Raises:
        InputError: see :func:`show`, and for another ending.
    """
    path = checked(Path(path).expanduser())
    if not path.suffix:
        pictures = to_pil(images)
        paths = [path / f"{i:0{max(4, len(str(len(pictures))))}d}.png" for i in range(len(pictures))]
        for file, picture in zip(paths, pictures, strict=True):
            grid.save(picture, file)
        return paths
    grid.save(to_pil(images)[0] if images.ndim == 3 else show(images, columns, headings), path)
    return [path]


def checked(path: Path) -> Path:
    """The path itself.

    Raises:
        InputError: for a file of another kind.
    """
    if path.suffix and path.suffix.lower() not in WRITTEN:
        raise InputError(f"pictures go to a file ending in {', '.join(WRITTEN)}, or to a folder: got {path}")
    return path


def _pictures(images: Tensor) -> Tensor:
    if not isinstance(images, Tensor) or images.ndim not in (3, 4) or images.shape[-3] not in (1, 3) or not len(images):
        got = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise InputError(f"pictures are a tensor (N, C, H, W) or (C, H, W) with 1 or 3 channels: got {got}")
    images = images if images.ndim == 4 else images[None]
    if not images.is_floating_point():
        raise InputError(f"pictures are floats in [-1, 1], such as x / 127.5 - 1 of bytes: got {images.dtype}")
    check_range(images, "the tensor of pictures")
    return images
