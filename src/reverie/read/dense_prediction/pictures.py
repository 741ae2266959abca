"""Pictures of readings: masks over pictures, uncertainty, and lines between matching places."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from reverie.core.errors import InputError
from reverie.learn.grid import tile, to_bytes, to_picture
from reverie.read.odise.panoptics import Panoptic

SIDE = 384
RADIUS = 5


def segmentation(images: Tensor, truth: Tensor, found: Tensor, uncertainty: Tensor, *, classes: int) -> Image.Image:
    """Rows: the pictures, what is true, what was found, and how unsure of it the ensemble is (dark is sure).

    Args:
        images: (N, C, H, W) in [−1, 1].
        truth, found: (N, H, W) classes; class 0 and unknown pixels are left dark.
        uncertainty: (N, H, W).
        classes: how many.
    """
    grey = uncertainty / uncertainty.max().clamp_min(1e-9) * 2.0 - 1.0
    pictures, unsure = (value.expand(-1, 3, -1, -1) for value in (images, grey[:, None]))
    rows = [pictures, _coloured(truth, classes), _coloured(found, classes), unsure]
    return tile(torch.cat(rows), len(images))


def panoptics(images: Tensor, maps: Sequence[Sequence[Panoptic]], *, classes: int) -> Image.Image:
    """Rows: the pictures (N, C, H, W), then lists of their panoptic maps: a colour a class, dark between segments."""
    rows = [images.cpu().expand(-1, 3, -1, -1)]
    for row in maps:
        labels = torch.stack([_by_pixel(m) for m in row])
        segments = torch.stack([m.segments.cpu() for m in row])
        padded = F.pad(segments[:, None].double(), (0, 1, 0, 1), mode="replicate")[:, 0].long()
        edge = (padded[:, :-1, 1:] != segments) | (padded[:, 1:, :-1] != segments)
        rows.append(torch.where(edge[:, None], -1.0, _coloured(labels + 1, classes + 1)))
    return tile(torch.cat(rows), len(images))


def salient(image: Tensor, count: int) -> Tensor:
    """Up to ``count`` points (P, 2), (x, y), where a picture (C, H, W) has contrast, spread out.

    Raises:
        InputError: for a picture of a single colour.
    """
    h, w = image.shape[-2:]
    grey = F.pad(image.mean(0)[None, None], (1, 1, 1, 1), mode="replicate")
    contrast = (F.avg_pool2d(grey**2, 3, 1) - F.avg_pool2d(grey, 3, 1) ** 2)[0, 0]
    contrast[contrast < 1e-4] = 0.0
    if not contrast.any():
        raise InputError("the first picture has a single colour: there is nothing to look for")
    apart = max(1.0, 0.5 * (h * w / count) ** 0.5)
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    points = []
    while len(points) < count and contrast.any():
        best = int(contrast.argmax())
        points.append((best % w, best // w))
        contrast[(x - best % w) ** 2 + (y - best // w) ** 2 < apart**2] = 0.0
    return torch.tensor(points)


def lines(a: Tensor, b: Tensor, points: Tensor, found: Tensor) -> Image.Image:
    """Two pictures (C, H, W) side by side with a line from each point (P, 2) of the first to its match in the second."""
    scale = max(1, round(SIDE / a.shape[-1]))
    left, right = (
        to_picture(
            to_bytes(im.expand(3, -1, -1) if len(im) == 1 else im)
            .repeat_interleave(scale, 1)
            .repeat_interleave(scale, 2)
        )
        for im in (a, b)
    )
    gap = 16
    sheet = Image.new("RGB", (left.width + gap + right.width, max(left.height, right.height)), "white")
    sheet.paste(left, (0, 0))
    sheet.paste(right, (left.width + gap, 0))
    draw = ImageDraw.Draw(sheet)
    for i, (p, q) in enumerate(zip(points.tolist(), found.tolist(), strict=True)):
        colour = _hue(i / len(points))
        start = ((p[0] + 0.5) * scale, (p[1] + 0.5) * scale)
        end = (left.width + gap + (q[0] + 0.5) * scale, (q[1] + 0.5) * scale)
        draw.line([start, end], colour, 2)
        for x, y in (start, end):
            draw.ellipse([x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS], colour, "white")
    return sheet


def _by_pixel(m: Panoptic) -> Tensor:
    """(H, W): the class of each pixel, −1 for none."""
    table = torch.full((max([0, *m.labels]) + 1,), -1)
    for number, label in m.labels.items():
        table[number] = label
    return table[m.segments.cpu()]


def _coloured(masks: Tensor, classes: int) -> Tensor:
    """(N, H, W) classes as colours (N, 3, H, W) in [−1, 1]; class 0 and unknown dark."""
    palette = torch.tensor([(30, 30, 30), *(_hue(i / max(1, classes - 1)) for i in range(classes - 1))])
    return (palette[masks.clamp_min(0)].permute(0, 3, 1, 2) / 127.5) - 1.0


def _hue(place: float) -> tuple[int, int, int]:
    r, g, b = (round(255 * v) for v in colorsys.hsv_to_rgb(place, 0.75, 0.95))
    return r, g, b
