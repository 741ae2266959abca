"""Images as one PNG."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from reverie.core.files import write
from reverie.core.text import shown

TILE = 64
"""Smaller images are enlarged by a whole factor to at least this many pixels, so that they can be looked at."""
TEXT = 12
"""Height of a heading, in pixels."""


def to_bytes(images: Tensor) -> Tensor:
    """[−1, 1] to 0 … 255, uint8 on the CPU, clipped and rounded."""
    return images.detach().float().add(1.0).mul(127.5).round().clamp(0, 255).byte().cpu()


def tile(images: Tensor, columns: int, headings: Sequence[str] = (), gap: int = 2) -> Image.Image:
    """Images (N, C, H, W) in [−1, 1], row by row, on white, enlarged by repeating pixels if they are small, with words above columns."""
    pixels = to_bytes(images)
    enlarge = max(1, -(-TILE // pixels.shape[-1]))
    pixels = pixels.repeat_interleave(enlarge, -1).repeat_interleave(enlarge, -2)
    n, c, h, w = pixels.shape
    rows = -(-n // columns)
    sheet = torch.full((c, rows * (h + gap) - gap, columns * (w + gap) - gap), 255, dtype=torch.uint8)
    for i, image in enumerate(pixels):
        top, left = i // columns * (h + gap), i % columns * (w + gap)
        sheet[:, top : top + h, left : left + w] = image
    return _headed(to_picture(sheet), headings, w, gap) if headings else to_picture(sheet)


def _headed(sheet: Image.Image, headings: Sequence[str], width: int, gap: int) -> Image.Image:
    """The sheet below a line of words, each in the middle of its column and cut off where it is wider."""
    font = ImageFont.load_default(TEXT)
    whole = Image.new(sheet.mode, (sheet.width, sheet.height + TEXT + 6), "white")
    whole.paste(sheet, (0, TEXT + 6))
    pen = ImageDraw.Draw(whole)
    for i, heading in enumerate(headings):
        words = shown(" ".join(heading.split()))
        while len(words) > 1 and pen.textlength(words, font) > width:
            words = f"{words.removesuffix('…')[:-1]}…"
        pen.text((i * (width + gap) + width // 2, TEXT // 2 + 2), words, "black", font, anchor="mm")
    return whole


def to_picture(pixels: Tensor) -> Image.Image:
    """uint8 (C, H, W) with C = 1 or 3 as a Pillow image."""
    return Image.fromarray(pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).numpy())


def save(picture: Image.Image, path: Path, text: Mapping[str, str] | None = None) -> None:
    """Write an image file that appears complete or not at all, a PNG with chunks of ``text`` by their keys."""
    content, chunks = BytesIO(), PngInfo()
    for key, value in (text or {}).items():
        chunks.add_itxt(key, value.encode(errors="backslashreplace").decode())
    picture.save(content, Image.registered_extensions()[path.suffix.lower()], pnginfo=chunks)
    write(path, content.getvalue())
