"""Adaptive discriminator augmentation: few pictures last longer when the critic sees them changed, drawn ones in the same way.

Karras et al., "Training generative adversarial networks with limited data", NeurIPS 2020. Each change of a pipeline happens with
probability p, so that what the pictures themselves look like can still be told (section 2.2), and p follows ``E[sign D(x)]`` over real
pictures, which grows as the critic learns them by heart (section 3). The changes are those of its "bgc" pipeline.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from reverie.core.draws import Draws
from reverie.core.processes import gathered
from reverie.core.tensors import onto
from reverie.core.warp import rotation, scaling
from reverie.core.warp import warped as moved

CHANGES = (
    "flip",
    "turn",
    "shift",
    "scale",
    "rotate",
    "stretch",
    "move",
    "bright",
    "contrast",
    "invert",
    "hue",
    "saturate",
)
"""Each by itself with probability p; the first seven move pixels, the others change colours."""
MOVING = 7


class Augment(nn.Module):
    """Changes pictures with probability p, and moves p.

    Args:
        target: of ``E[sign D(x)]``.
        images: in which p goes from 0 to 1 at most.
    """

    p: Tensor

    def __init__(self, target: float = 0.6, images: float = 500_000.0) -> None:
        super().__init__()
        self.target, self.images = target, images
        self.register_buffer("p", torch.zeros(()))

    @torch.no_grad()
    def adapt(self, real: Tensor) -> None:
        """Raise p where the critic's ratings (B,) of real pictures are more often positive than the target has it, else lower it."""
        signs = gathered(real[:, None].sign())
        step = (signs.mean() - self.target).sign() * len(signs) / self.images
        self.p.add_(step.to(self.p)).clamp_(0.0, 1.0)

    def forward(self, x: Tensor, rng: Draws, stream: str) -> Tensor:
        """Pictures (B, C, H, W) in [−1, 1], changed by the draws of a stream; what nothing happens to stays as it is, to the bit."""
        happens = onto(torch.stack([rng.uniform(f"{stream}/{name}") for name in CHANGES], 1), x) < self.p
        amount = onto(rng.normal(f"{stream}/amount", (2 * len(CHANGES),)), x).unflatten(1, (-1, 2))
        amount = torch.where(happens[:, :, None], amount, 0.0)
        elsewhere = torch.where(happens[:, :MOVING].any(1)[:, None, None, None], warped(x, amount[:, :MOVING]), x)
        tinted = coloured(elsewhere, amount[:, MOVING:])
        return torch.where(happens[:, MOVING:].any(1)[:, None, None, None], tinted, elsewhere)


def warped(x: Tensor, amount: Tensor) -> Tensor:
    """Pictures flipped, turned by quarters, shifted by pixels, scaled, rotated, stretched and moved, mirrored at their edges.

    Args:
        x: (B, C, H, W).
        amount: (B, 7, 2) standard normals, 0 where nothing happens.
    """
    height, width = x.shape[2:]
    quantile = torch.special.ndtr(amount)  # uniform, and 1/2 where nothing happens
    flip, turn, shift, scale, rotate, stretch, move = range(MOVING)
    mirrored = torch.where(amount[:, flip, 0] > 0, -1.0, 1.0)
    quarters = torch.where(amount[:, turn, 0] != 0, (quantile[:, turn, 0] * 4).floor(), 0.0) if height == width else 0.0
    angle = 0.5 * math.pi * quarters + 2.0 * math.pi * (quantile[:, rotate, 0] - 0.5)
    larger, longer = (math.log(2.0) * 0.2 * amount[:, i, 0] for i in (scale, stretch))
    linear = scaling(torch.exp(larger + longer) * mirrored, torch.exp(larger - longer)) @ rotation(angle)
    size = torch.tensor([width, height], device=x.device, dtype=x.dtype)
    by = ((quantile[:, shift] - 0.5) * 0.25 * size).round() / size + 0.125 * amount[:, move]
    return moved(x, linear, by)


def coloured(x: Tensor, amount: Tensor) -> Tensor:
    """Pictures brighter, of more contrast, inverted in their lightness, turned in hue, of more colour; grey ones only the first two.

    Args:
        x: (B, C, H, W).
        amount: (B, 5, 2) standard normals, 0 where nothing happens.
    """
    bright, contrast, invert, hue, saturate = amount[:, :, 0].unbind(1)
    x = (x + 0.2 * bright[:, None, None, None]) * torch.exp(math.log(2.0) * 0.5 * contrast)[:, None, None, None]
    if x.shape[1] != 3:
        return x
    grey = torch.full((3, 3), 1.0 / 3.0, device=x.device, dtype=x.dtype)
    axis = torch.full((3,), 1.0 / math.sqrt(3.0), device=x.device, dtype=x.dtype)
    eye = torch.eye(3, device=x.device, dtype=x.dtype)
    flipped = torch.where(invert > 0, 2.0, 0.0)[:, None, None]
    angle = (2.0 * math.pi * (torch.special.ndtr(hue) - 0.5))[:, None, None]
    more = torch.exp(math.log(2.0) * saturate)[:, None, None]
    turning = torch.linalg.cross(eye, axis.expand(3, 3), dim=1)
    rotation = eye * angle.cos() + turning * angle.sin() + grey * (1.0 - angle.cos())
    matrix = (grey + (eye - grey) * more) @ rotation @ (eye - flipped * grey)
    return torch.einsum("bij,bjhw->bihw", matrix, x)
