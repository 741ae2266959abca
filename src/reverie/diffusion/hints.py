"""Hints: maps in [0, 1] that are made of pictures, and by which a ControlNet learns to draw (Zhang et al. 2023, section 4.1)."""

from collections.abc import Callable

from torch import Tensor

from reverie.guide.energies import sobel


def edges(x: Tensor) -> Tensor:
    """How steep pictures (B, C, H, W) in [−1, 1] are, (B, 1, H, W): the length of Sobel's derivatives, 1 at a step from black to white."""
    return sobel(x).square().sum(1, keepdim=True).sqrt().clamp(max=1.0)


def shapes(x: Tensor) -> Tensor:
    """Where pictures (B, C, H, W) are brighter than halfway between their darkest and brightest place, (B, 1, H, W) of zeros and ones."""
    grey = x.mean(1, keepdim=True)
    return (grey > 0.5 * (grey.amax((2, 3), keepdim=True) + grey.amin((2, 3), keepdim=True))).to(x.dtype)


HINTS: dict[str, Callable[[Tensor], Tensor]] = {"edges": edges, "shapes": shapes}
