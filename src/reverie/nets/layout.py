"""Where what a network says inside lies in the picture: tokens as maps."""

from collections.abc import Sequence

from torch import Tensor

from reverie.core.errors import InputError


def as_map(value: Tensor, size: Sequence[int]) -> Tensor:
    """A map (B, C, h, w) of what it is already, of a vector (B, C), or of tokens (B, N, C) in the proportions of ``size``.

    Tokens that do not fill the grid (a class, the time, a text) come first and are left out.

    Raises:
        InputError: when there is no such grid.
    """
    if value.ndim == 4:
        return value
    if value.ndim == 2:
        return value[:, :, None, None]
    n = value.shape[1]
    for patch in range(1, min(size) + 1):
        high, wide = size[0] // patch, size[1] // patch
        if size[0] % patch == 0 and size[1] % patch == 0 and high * wide <= n:
            return value[:, n - high * wide :].transpose(1, 2).unflatten(2, (high, wide))
    raise InputError(f"{n} tokens do not lie on a grid of pictures of {size[0]}x{size[1]}")
