"""JPEG's loss, many pictures at once: Wallace, "The JPEG still picture compression standard", CACM 1991.

Blocks of 8x8 levels are transformed (DCT-II), divided by a table that a quality scales (libjpeg's rule), rounded, and back. Colours go
through Y'CbCr and are not subsampled; what is lossless in a file, the code of the numbers, is left out.
"""

import torch
from torch import Tensor

from reverie.core.errors import InputError
from reverie.core.tensors import onto
from reverie.inverse.operators import REC601, cosine

LUMA = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62,
    18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
CHROMA = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99, 99, 99, 99,
    *(99,) * 32,
)  # fmt: skip
"""Tables K.1 and K.2 of the standard, row by row."""


def jpeg(x: Tensor, quality: Tensor) -> Tensor:
    """Pictures as a JPEG of them shows them.

    Args:
        x: (B, 1 or 3, H, W) in [−1, 1].
        quality: (B,), 1 to 100.

    Returns:
        The same shape and range, on the 256 levels; no gradient passes.

    Raises:
        InputError: for other channels or qualities.
    """
    channels, height, width = x.shape[1:]
    if channels not in (1, 3):
        raise InputError(f"JPEG is of grey or coloured pictures: got {channels} channels")
    if not bool(((quality >= 1) & (quality <= 100)).all()):
        raise InputError(f"the quality of JPEG is 1 to 100: got {quality.tolist()}")
    planes = _luma(x) if channels == 3 else x
    planes = torch.nn.functional.pad(127.5 * planes, (0, -width % 8, 0, -height % 8), mode="replicate")
    planes[:, 0] -= 0.5
    planes = planes.round().clamp(-128.0, 127.0)  # levels 0 … 255 less 128, as they are coded
    blocks = planes.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).transpose(3, 4)  # (B, C, rows, columns, 8, 8)
    transform, table = onto(cosine(8), x), onto(_tables(quality, channels), x)
    rounded = (transform @ blocks @ transform.T / table).round() * table
    planes = (transform.T @ rounded @ transform).transpose(3, 4).flatten(4, 5).flatten(2, 3)[..., :height, :width]
    planes = planes.round().clamp(-128.0, 127.0)
    planes[:, 0] += 128.0
    levels = _colours(planes) if channels == 3 else planes
    return levels.round().clamp(0.0, 255.0) / 127.5 - 1.0


def _tables(quality: Tensor, channels: int) -> Tensor:
    """(B, channels, 1, 1, 8, 8)."""
    base = torch.tensor([LUMA, CHROMA, CHROMA][:channels], dtype=torch.float64).reshape(1, channels, 1, 1, 8, 8)
    q = quality.double().cpu().reshape(-1, 1, 1, 1, 1, 1)
    return (
        ((base * torch.where(q < 50.0, 5000.0 / q, 200.0 - 2.0 * q).floor() + 50.0) / 100.0).floor().clamp(1.0, 255.0)
    )


def _luma(x: Tensor) -> Tensor:
    """RGB in [−1, 1] to Y' and the differences of blue and red in units of the same."""
    red, green, blue = (w * x[:, i] for i, w in enumerate(REC601))
    y = red + green + blue
    return torch.stack([y, (x[:, 2] - y) / (2.0 - 2.0 * REC601[2]), (x[:, 0] - y) / (2.0 - 2.0 * REC601[0])], dim=1)


def _colours(planes: Tensor) -> Tensor:
    """Levels of Y'CbCr, the differences about 0, to levels of RGB."""
    y, cb, cr = planes.unbind(1)
    red, blue = y + (2.0 - 2.0 * REC601[0]) * cr, y + (2.0 - 2.0 * REC601[2]) * cb
    return torch.stack([red, (y - REC601[0] * red - REC601[2] * blue) / REC601[1], blue], dim=1)
