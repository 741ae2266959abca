"""Made scenes: two shapes, each of some colour, on a dark ground; every pixel's segment is known, and so is what each word means."""

import torch
from torch import Tensor

from reverie.core.batch import Batch
from reverie.core.draws import Draws
from reverie.read.odise.naming import Vocabulary
from reverie.read.odise.panoptics import Panoptic

SHAPES = ("square", "disc", "cross")
COLOURS = {
    "red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "yellow": (1, 1, 0), "cyan": (0, 1, 1), "magenta": (1, 0, 1),
}  # fmt: skip
UNSEEN = [("square", "red"), ("disc", "green"), ("cross", "blue")]
"""Things that training never shows. Their shapes and colours it does show, each in other company."""
SEEN = [(shape, colour) for shape in SHAPES for colour in COLOURS if (shape, colour) not in UNSEEN]
GROUND = len(SEEN)
NEW = tuple(range(GROUND + 1, GROUND + 1 + len(UNSEEN)))
"""The categories in order: what training shows, the ground, what it does not."""
KINDS = [*SEEN, None, *UNSEEN]


def vocabulary(new: bool = True) -> Vocabulary:
    """The names: of all categories, or without the ``new`` ones, for training. A category has the same number in both.

    A word's embedding says shape and colour, turned by a fixed rotation: like a text encoder's it is known for every word, and alike for
    words that mean something alike.
    """
    kinds = KINDS if new else KINDS[: GROUND + 1]
    words = torch.zeros(len(kinds), 7)
    for k, kind in enumerate(kinds):
        if kind is None:
            words[k, 6] = 1.0
        else:
            words[k, SHAPES.index(kind[0])] = 1.0
            words[k, 3:6] = (2.0 * torch.tensor(COLOURS[kind[1]]) - 1.0) / 3**0.5
    turn = torch.linalg.qr(torch.randn(7, 7, generator=torch.Generator().manual_seed(0))).Q
    return Vocabulary([["ground" if kind is None else f"{kind[1]} {kind[0]}"] for kind in kinds], words @ turn)


def scenes(start: int, count: int, size: int = 16, new: bool = False, seed: int = 0) -> Batch:
    """Scenes at positions ``start …`` of an endless set: pictures (B, 3, size, size), and as conditions their masks and categories.

    Args:
        new: show only the categories :data:`NEW`, which are left out otherwise.
    """
    rng = Draws(seed, start, count)
    known = torch.tensor(NEW if new else range(GROUND))
    half, radius = size // 2, size // 4 - 0.5
    kinds = torch.stack([known[(len(known) * rng.uniform(f"kind{i}")).long()] for i in range(2)], 1)
    shapes = torch.tensor([SHAPES.index(kind[0]) if kind else -1 for kind in KINDS])
    colours = torch.tensor([COLOURS[kind[1]] if kind else (0, 0, 0) for kind in KINDS]) * 1.6 - 0.7
    grid = torch.arange(size) + 0.5
    y, x = grid[:, None], grid[None]
    masks = torch.zeros(count, 3, size, size, dtype=torch.bool)
    images = torch.full((count, 3, size, size), -0.8)
    for i in range(2):
        cy = (radius + (size - 2 * radius) * rng.uniform(f"y{i}"))[:, None, None]
        cx = (i * half + radius + (half - 2 * radius) * rng.uniform(f"x{i}"))[:, None, None]
        masks[:, i] = _shape(shapes[kinds[:, i]], y - cy, x - cx, radius)
        images = torch.where(masks[:, i, None], colours[kinds[:, i]][:, :, None, None], images)
    masks[:, 2] = ~masks[:, :2].any(1)
    images = (images + 0.1 * rng.normal("grain", images.shape[1:])).clamp(-1.0, 1.0)
    categories = torch.cat([kinds, torch.full((count, 1), GROUND)], 1)
    return Batch(images, extra={"masks": masks, "categories": categories})


def truth(batch: Batch) -> list[Panoptic]:
    """The panoptic maps of scenes."""
    masks, labels = batch.extra["masks"], batch.extra["categories"]
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
