"""Made scenes: two shapes, each of some colour, on a dark ground; every pixel's segment is known, and so is what each word means."""

import torch
from torch import Tensor

from reverie.core.condition import Cond
from reverie.learn.draws import Draws
from reverie.learn.task import Batch
from reverie.read.odise.naming import Vocabulary
from reverie.read.odise.panoptics import Panoptic

SHAPES = ("square", "disc", "cross")
COLOURS = {"red": (0.9, -0.7, -0.7), "green": (-0.7, 0.9, -0.7), "blue": (-0.7, -0.7, 0.9)}
GROUND = 9
NEW = (0, 4, 8)
"""The categories that training never shows: red square, green disc, blue cross."""


def vocabulary() -> Vocabulary:
    """Nine kinds of thing and the ground. A word's embedding says shape and colour, turned by a fixed rotation."""
    words = torch.zeros(10, 7)
    for k in range(9):
        words[k, k // 3] = words[k, 3 + k % 3] = 1.0
    words[GROUND, 6] = 1.0
    turn = torch.linalg.qr(torch.randn(7, 7, generator=torch.Generator().manual_seed(0))).Q
    names = [[f"{colour} {shape}"] for shape in SHAPES for colour in COLOURS]
    return Vocabulary([*names, ["ground"]], words @ turn)


def scenes(start: int, count: int, size: int = 16, new: bool = False, seed: int = 0) -> Batch:
    """Scenes at positions ``start …`` of an endless set: pictures (B, 3, size, size), and as conditions their masks and categories.

    Args:
        new: show only the categories :data:`NEW`, which are left out otherwise.
    """
    rng = Draws(seed, start, count)
    known = torch.tensor([k for k in range(9) if (k in NEW) == new])
    half, radius = size // 2, size // 4 - 0.5
    kinds = torch.stack([known[(len(known) * rng.uniform(f"kind{i}")).long()] for i in range(2)], 1)
    grid = torch.arange(size) + 0.5
    y, x = grid[:, None], grid[None]
    masks = torch.zeros(count, 3, size, size, dtype=torch.bool)
    for i in range(2):
        cy = (radius + (size - 2 * radius) * rng.uniform(f"y{i}"))[:, None, None]
        cx = (i * half + radius + (half - 2 * radius) * rng.uniform(f"x{i}"))[:, None, None]
        masks[:, i] = _shape(kinds[:, i] // 3, y - cy, x - cx, radius)
    masks[:, 2] = ~masks[:, :2].any(1)
    colours = torch.tensor(list(COLOURS.values()))
    images = torch.full((count, 3, size, size), -0.8)
    for i in range(2):
        images = torch.where(masks[:, i, None], colours[kinds[:, i] % 3][:, :, None, None], images)
    images = (images + 0.1 * rng.normal("grain", images.shape[1:])).clamp(-1.0, 1.0)
    return Batch(images, Cond(masks=masks.float(), categories=torch.cat([kinds, torch.full((count, 1), GROUND)], 1)))


def truth(batch: Batch) -> list[Panoptic]:
    """The panoptic maps of scenes."""
    assert batch.cond is not None
    masks, labels = batch.cond["masks"].value > 0.5, batch.cond["categories"].value
    numbers = torch.arange(1, masks.shape[1] + 1)[:, None, None]
    return [
        Panoptic((m * numbers).amax(0), {i + 1: int(label) for i, label in enumerate(row)})
        for m, row in zip(masks, labels, strict=True)
    ]


def _shape(kind: Tensor, y: Tensor, x: Tensor, radius: float) -> Tensor:
    square = (y.abs() <= radius * 0.85) & (x.abs() <= radius * 0.85)
    disc = y.square() + x.square() <= radius**2
    cross = ((y.abs() <= radius / 3) | (x.abs() <= radius / 3)) & (y.abs() <= radius) & (x.abs() <= radius)
    return torch.stack([square, disc, cross]).gather(0, kind[None, :, None, None].expand(1, *square.shape))[0]
