"""Pictures and the same turned, scaled and lit otherwise: where each point went is known exactly."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from reverie.read.dense_prediction import correspond
from reverie.read.dense_prediction.pictures import salient

POINTS = 16


def pairs(images: Tensor, seed: int = 0, degrees: float = 30.0, grow: float = 0.15) -> tuple[Tensor, Tensor]:
    """(N, C, H, W) -> the pictures turned by up to ±``degrees``, scaled by up to ±``grow``, and lit otherwise; the maps (N, 2, 2)."""
    n, rng = len(images), torch.Generator().manual_seed(seed)
    angle, scale, gain, offset = (2.0 * torch.rand(4, n, generator=rng) - 1.0).unbind()
    angle, scale = angle * math.radians(degrees), 1.0 + grow * scale
    cos, sin = angle.cos() * scale, angle.sin() * scale
    turn = torch.stack([cos, -sin, sin, cos], 1).reshape(n, 2, 2)
    grid = F.affine_grid(torch.cat([turn, torch.zeros(n, 2, 1)], 2), list(images.shape), align_corners=False)
    there = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    there = there * (1.0 + 0.2 * gain).reshape(-1, 1, 1, 1) + 0.2 * offset.reshape(-1, 1, 1, 1)
    return (there + 0.05 * torch.randn(there.shape, generator=rng)).clamp(-1.0, 1.0), turn


def went(points: Tensor, turn: Tensor, side: int) -> Tensor:
    """Where points (P, 2), (x, y) in pixels, of a square picture are in the turned one: its place p shows the source's turn·p."""
    centred = (points + 0.5) * 2.0 / side - 1.0
    return (centred @ torch.linalg.inv(turn).T + 1.0) * side / 2.0 - 0.5


def score(images: Tensor, turn: Tensor, a: list[Tensor], b: list[Tensor], alpha: float) -> float:
    """PCK per point at ``alpha`` of the picture's side, over places of contrast that stay inside; maps a picture."""
    side, found, truth = images.shape[-1], [], []
    for image, matrix, u, v in zip(images, turn, a, b, strict=True):
        points = salient(image, POINTS)
        there = went(points, matrix, side)
        inside = ((there >= 0) & (there <= side - 1)).all(1)
        found.append(correspond.match(u, v, points[inside], (side, side))[0])
        truth.append(there[inside])
    return correspond.pck(found, truth, [float(side)] * len(found), alpha).per_point
