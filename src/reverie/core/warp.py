"""Pictures under affine maps of the plane: what augmentations are made of."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def rotation(angle: Tensor) -> Tensor:
    """The matrices ``(cos, −sin; sin, cos)`` of angles (B,), (B, 2, 2)."""
    cosine, sine = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cosine, -sine], -1), torch.stack([sine, cosine], -1)], -2)


def scaling(across: Tensor, down: Tensor) -> Tensor:
    """The diagonal matrices of factors (B,), (B, 2, 2)."""
    return torch.diag_embed(torch.stack([across, down], -1))


def warped(x: Tensor, linear: Tensor, shift: Tensor) -> Tensor:
    """Pictures that show at a place z what was at ``linear·z + shift``, bilinear between pixels and mirrored at the edges.

    Args:
        x: (B, C, H, W).
        linear: (B, 2, 2), of places (across, down) from the centre in pixels.
        shift: (B, 2), in pictures: 1 is their width, or height.
    """
    height, width = x.shape[2:]
    size = torch.tensor([width, height], device=x.device, dtype=x.dtype)
    units = linear * size / size[:, None]  # of half a picture, in place of pixels
    grid = F.affine_grid(torch.cat([units, 2.0 * shift[:, :, None]], 2), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
