"""What energies and measurements look at: the pixels that a mask keeps, the picture from afar."""

import torch
from torch import Tensor

from reverie.core.errors import InputError
from reverie.guide.gradient import fit


def as_mask(mask: Tensor) -> Tensor:
    """A mask as floats (B or 1, C or 1, H, W).

    Args:
        mask: (H, W), (C or 1, H, W) or (B or 1, C or 1, H, W), true or 1 where the pixel is known.

    Raises:
        InputError: for a mask that is not of zeros and ones.
    """
    values = mask.to(torch.float32)
    if not bool(((values == 0) | (values == 1)).all()):
        raise InputError("a mask is 1 (known) or 0 (unknown) at each pixel: threshold it first")
    return values.reshape((1,) * (4 - values.ndim) + values.shape)


def masked(x: Tensor, mask: Tensor) -> Tensor:
    """Images (B, C, H, W), zero where the mask (B or 1, C or 1, H, W) is.

    Raises:
        InputError: for a mask of another size than the images.
    """
    return x * mask_of(x, mask)


def mask_of(x: Tensor, mask: Tensor) -> Tensor:
    """The mask on the device and in the dtype of images (B, C, H, W), else as :func:`masked`."""
    (c, h, w), (_, k, height, width) = x.shape[1:], mask.shape
    if (h, w) != (height, width) or k not in (1, c):
        raise InputError(
            f"the mask is {k}x{height}x{width}, the images are {c}x{h}x{w}: give a mask of {h}x{w} pixels, 1 channel or {c}"
        )
    return fit("the mask", mask, x)


def shrink(x: Tensor, factor: int) -> Tensor:
    """The mean of each block of ``factor × factor`` pixels.

    Raises:
        InputError: for images that the factor does not divide.
    """
    if x.shape[-1] % factor or x.shape[-2] % factor:
        raise InputError(
            f"images of {x.shape[-2]}x{x.shape[-1]} do not divide in blocks of {factor}x{factor}: use a divisor"
        )
    return torch.nn.functional.avg_pool2d(x, factor)
