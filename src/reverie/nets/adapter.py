"""T2I-Adapter: what a frozen U-Net is told by a hint, from a few convolutions of the hint alone.

Mou et al., "T2I-Adapter: Learning Adapters to Dig out More Controllable Ability for Text-to-Image Diffusion Models", AAAI 2024
(arXiv:2302.08453, section 3.3). The hint's pixels are folded into channels; at each resolution of the U-Net two residual blocks make a
map, which is added to what the encoder gives there, to the skip connections and on the way down alike. It sees neither x_t nor the time,
and is a small share of a ControlNet. Its maps pass layers that begin at zero, which the paper does without: so it begins as the frozen
network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

from reverie.core.errors import InputError
from reverie.nets.controlnet import Hinted
from reverie.nets.layers import zeroed
from reverie.nets.unet import Stage, UNet

if TYPE_CHECKING:
    from reverie.core.condition import Cond


class Residual(nn.Module):
    """``x + W₂·relu(W₁ ∗ x)`` with a 3x3 and a 1x1 convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(F.relu(self.inner(x)))


class Adapter(Hinted):
    """A map of the hint for each resolution of a U-Net.

    Args:
        net: a U-Net.
        hint, size: as of :class:`~reverie.nets.controlnet.Hinted`.

    Raises:
        InputError: for another network, or as :class:`~reverie.nets.controlnet.Hinted`.
    """

    def __init__(self, net: nn.Module, hint: int = 1, size: tuple[int, int] | None = None) -> None:
        if not isinstance(net, UNet):
            raise InputError(
                f"an adapter is for the levels of a U-Net of ours: got {type(net).__name__}; a ControlNet serves it"
            )
        super().__init__(net, hint, size)
        self.sites, widths = [], []
        for level, stages in enumerate(net.down):
            last = stages[-1]  # pyright: ignore[reportIndexIssue]
            assert isinstance(last, Stage)
            self.sites.append(f"down.{level}.{len(stages) - 1}")  # pyright: ignore[reportArgumentType]
            widths.append(last.residual.conv_in.out_channels)
        self.fold = nn.PixelUnshuffle(self.factor)
        self.enter = nn.Conv2d(hint * self.factor**2, widths[0], 3, padding=1)
        self.levels = nn.ModuleList()
        for inner, outer in zip([widths[0], *widths], widths, strict=False):
            way = [nn.AvgPool2d(2), nn.Conv2d(inner, outer, 1)] if len(self.levels) else []
            self.levels.append(nn.Sequential(*way, Residual(outer), Residual(outer)))
        self.zeros = nn.ModuleList(zeroed(nn.Conv2d(width, width, 1)) for width in widths)
        self.to(net.embed.weight)

    def forward(
        self, x: Tensor, time: Tensor, cond: Cond | None, hint: Tensor, net: nn.Module | None = None
    ) -> dict[str, Tensor]:
        h, added = self.enter(self.fold(hint.to(x.dtype))), {}
        for site, level, zero in zip(self.sites, self.levels, self.zeros, strict=True):
            h = level(h)
            added[site] = zero(h)
        return added
