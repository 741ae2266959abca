"""Sliding windows: pictures larger than the network's, read window by window (the authors' ``FeatureExtractorBackbone``)."""

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.nn import functional as F

from reverie.core.errors import InputError


def slide(
    read: Callable[[Tensor], Sequence[Tensor]], images: Tensor, window: tuple[int, int], strides: Sequence[int]
) -> list[Tensor]:
    """Maps of whole pictures: windows side by side, the last flush with the end, and the mean where they overlap.

    Args:
        read: pictures (B, C, height, width) of a window -> a map (B, D, h, w) a stride.
        images: (B, C, H, W).
        window: (height, width).
        strides: in pixels.

    Returns:
        By stride (B, D, H/stride, W/stride).

    Raises:
        InputError: for pictures smaller than a window.
    """
    size = (images.shape[2], images.shape[3])
    if size[0] < window[0] or size[1] < window[1]:
        raise InputError(f"the network reads {window[0]}x{window[1]} pixels or more: got {size[0]}x{size[1]}")
    sums: list[Tensor] = []
    counts = [images.new_zeros(1, 1, max(1, size[0] // s), max(1, size[1] // s)) for s in strides]
    for y in places(size[0], window[0]):
        for x in places(size[1], window[1]):
            maps = read(images[:, :, y : y + window[0], x : x + window[1]])
            if not sums:
                sums = [m.new_zeros(*m.shape[:2], *n.shape[2:]) for m, n in zip(maps, counts, strict=True)]
            for value, total, count, s in zip(maps, sums, counts, strides, strict=True):
                rows, columns = _cells(y, window[0], s, count.shape[2]), _cells(x, window[1], s, count.shape[3])
                here = (..., slice(*rows), slice(*columns))
                shape = (rows[1] - rows[0], columns[1] - columns[0])
                total[here] += value if value.shape[2:] == shape else F.interpolate(value, shape, mode="bilinear")
                count[here] += 1.0
    return [total / count for total, count in zip(sums, counts, strict=True)]


def places(length: int, window: int) -> list[int]:
    """Where windows begin."""
    return [*range(0, length - window, window), length - window]


def _cells(start: int, length: int, stride: int, cells: int) -> tuple[int, int]:
    """The cells of a map that a window touches."""
    first = min(start // stride, cells - 1)
    return first, max(first + 1, min(-(-(start + length) // stride), cells))
