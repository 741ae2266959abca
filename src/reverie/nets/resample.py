"""Half and twice the resolution of a feature map."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.nets.winograd import Conv3x3


class Down(nn.Module):
    """Half the resolution: a 3x3 convolution with stride 2, padded on all sides, or (``asymmetric``, Ho et al. 2020) right and below."""

    def __init__(self, channels: int, asymmetric: bool = False) -> None:
        super().__init__()
        self.asymmetric = asymmetric
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=0 if asymmetric else 1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.asymmetric else x)


class Up(nn.Module):
    """Twice the resolution: nearest neighbour, then a 3x3 convolution (Ho et al. 2020)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv3x3(channels, channels)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Resample(nn.Module):
    """Half or twice the resolution with a fixed separable filter that keeps the mean (Zhang 2019; Karras et al. 2020).

    Args:
        up: twice, else half.
        taps: the filter along one axis, an even number; (1, 1) is a mean of four, or the nearest neighbour.
        padded: whether the borders are padded with zeros here (or were before).
    """

    def __init__(self, up: bool, taps: tuple[int, ...] = (1, 1), padded: bool = True) -> None:
        super().__init__()
        self.up, self.taps, self.padding = up, taps, (len(taps) - 1) // 2 if padded else 0
        weights = torch.tensor(taps, dtype=torch.float32) / sum(taps)
        self.register_buffer("kernel", weights[:, None] * weights, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.taps == (1, 1):
            return F.interpolate(x, scale_factor=2.0, mode="nearest") if self.up else F.avg_pool2d(x, 2)
        channels = x.shape[1]
        kernel = self.kernel.to(x.dtype).expand(channels, 1, -1, -1)  # pyright: ignore[reportCallIssue]
        if self.up:
            return F.conv_transpose2d(x, 4 * kernel, groups=channels, stride=2, padding=self.padding)
        return F.conv2d(x, kernel, groups=channels, stride=2, padding=self.padding)
