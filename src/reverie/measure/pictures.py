"""Sheets of 8-bit pictures: PNG files without gaps or enlargement, which can be cut up again; and how small pictures become as files."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from PIL import Image
from torch import Tensor

from reverie.core import image_files
from reverie.learn.grid import to_picture


def from_bytes(images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """8-bit pixels as float32 in [−1, 1]."""
    return images.float().div(127.5).sub(1.0)


def sheet(images: UInt8[Tensor, "n c h w"], columns: int) -> Image.Image:
    """Pictures side by side, row by row; places left over are black."""
    n, c, h, w = images.shape
    rows = -(-n // columns)
    full = torch.zeros(rows * columns, c, h, w, dtype=torch.uint8)
    full[:n] = images
    return to_picture(full.reshape(rows, columns, c, h, w).permute(2, 0, 3, 1, 4).reshape(c, rows * h, columns * w))


def cut(path: Path, size: tuple[int, int]) -> UInt8[Tensor, "n c h w"]:
    """The pictures of a sheet, (height, width) each, row by row."""
    pixels = torch.from_numpy(np.array(image_files.open_image(path)))
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    rows, columns = pixels.shape[0] // size[0], pixels.shape[1] // size[1]
    tiles = pixels.reshape(rows, size[0], columns, size[1], -1).permute(0, 2, 4, 1, 3)
    return tiles.flatten(0, 1).contiguous()


def lossless(images: UInt8[Tensor, "n c h w"]) -> dict[str, Int64[Tensor, " n"]]:
    """Bytes of each picture as a file of every format that loses nothing: PNG, WebP, and JPEG XL where Pillow writes it."""
    formats: dict[str, dict[str, Any]] = {"PNG": {"optimize": True}}
    formats["WebP"] = {"lossless": True, "quality": 100, "method": 6}
    if "JXL" in Image.SAVE:
        formats["JXL"] = {"lossless": True, "effort": 9}

    def size(image: Tensor, name: str) -> int:
        content = BytesIO()
        to_picture(image).save(content, name, **formats[name])
        return content.tell()

    return {name: torch.tensor([size(image, name) for image in images]) for name in formats}
