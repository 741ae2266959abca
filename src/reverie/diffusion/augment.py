"""Augmentation that does not leak: pictures are changed in training, and the network is told how.

Karras, Aittala, Aila & Laine, "Elucidating the design space of diffusion-based generative models", NeurIPS 2022, appendix F.2. Each change
of their table 6 happens with probability p, except that half of the pictures are mirrored; nine numbers a say what was done, all of them 0
for a picture as it was. In sampling the network is told nothing, which is 0, and draws what is not changed. Of stretches, half are along
an edge, as in their code; between pixels we are bilinear, where they use a wavelet's filter.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from reverie.core.draws import Draws
from reverie.core.tensors import onto
from reverie.core.warp import rotation, scaling, warped

CHANGES = "changes"
"""The condition by which a network is told the nine numbers."""
TOLD = 9
STD, MOVE = 0.2, 0.125
"""Standard deviations of the logarithms (base 2) of scale and stretch, and of a move, in pictures."""


class Change(NamedTuple):
    """What is done to pictures, each (B,), 0 where nothing is: table 6's a₀ … a₇ before they are made into what is told."""

    mirror: Tensor
    upend: Tensor
    larger: Tensor
    angle: Tensor
    longer: Tensor
    along: Tensor
    across: Tensor
    down: Tensor

    def told(self) -> Tensor:
        """The nine numbers, (B, 9)."""
        turn, stretch = rotation(self.angle), rotation(self.along)[:, :, 0] * self.longer[:, None]
        rest = [turn[:, 0, 0] - 1.0, turn[:, 1, 0], stretch[:, 0], stretch[:, 1], self.across, self.down]
        return torch.stack([self.mirror, self.upend, self.larger, *rest], 1)

    def linear(self) -> Tensor:
        """Where in the picture before, apart from mirroring, a place is found, from the centre: (B, 2, 2)."""
        zoom, stretch = (torch.exp2(-STD * value) for value in (self.larger, self.longer))
        axes = rotation(self.along)
        return (
            scaling(zoom, zoom) @ rotation(-self.angle) @ axes @ scaling(stretch, 1.0 / stretch) @ axes.transpose(1, 2)
        )

    def __call__(self, x: Tensor) -> Tensor:
        """Pictures (B, C, H, W), changed; what is not stays as it is, to the bit."""
        for turned, side in ((self.mirror, 3), (self.upend, 2)):
            x = torch.where(turned[:, None, None, None] > 0, x.flip(side), x)
        moving = torch.stack([self.larger, self.angle, self.longer, self.across, self.down], 1)
        linear, size = self.linear(), x.new_tensor([x.shape[3], x.shape[2]])
        move = linear @ (MOVE * size * moving[:, 3:])[:, :, None]
        moved = warped(x, linear, -move[:, :, 0] / size)
        return torch.where((moving != 0).any(1)[:, None, None, None], moved, x)


def drawn(rng: Draws, p: float, like: Tensor) -> Change:
    """Changes for the pictures ``like`` (B, C, H, W), each with probability p."""

    def uniform(name: str) -> Tensor:
        return onto(rng.uniform(f"augment/{name}"), like)

    def where(name: str, value: Tensor) -> Tensor:
        return torch.where(uniform(name) < p, value, 0.0)

    normal = onto(rng.normal("augment/normal", (4,)), like)
    coin = torch.ones_like(normal[:, 0])
    moves = torch.where(uniform("move")[:, None] < p, normal[:, 2:], 0.0)
    return Change(
        torch.where(uniform("mirror") < 0.5, coin, 0.0),
        where("upend", torch.where(uniform("upended") < 0.5, coin, 0.0)),
        where("larger", normal[:, 0]),
        where("rotate", math.pi * (2.0 * uniform("angle") - 1.0)),
        where("stretch", normal[:, 1]),
        torch.where(uniform("slanted") < 0.5, math.pi * (2.0 * uniform("along") - 1.0), 0.0),
        moves[:, 0],
        moves[:, 1],
    )
