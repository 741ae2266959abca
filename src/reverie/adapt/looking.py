"""What encoders share: how they look at the pictures of a subject, and that what they say of it are the numbers of an adapter.

A picture is looked at twice: by the descending half of a U-Net of the encoder's own, and by the base, whose features of it at little noise
are read and stay as they are (E4T, Gal et al. 2023, section 3.2, reads those of the noisy picture at each step; here they are read once, so
that what is said of a subject is one adapter). What several pictures show is the mean of what each does: their order does not matter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.nets import taps
from reverie.nets.encoder import Encoder

if TYPE_CHECKING:
    from reverie.adapt.adapter import Adapter
    from reverie.adapt.sights import Sight
    from reverie.core.denoiser import NetDenoiser
    from reverie.nets.config import EncoderConfig

CLEAN = 4.0
"""The logsnr at which the base looks at pictures."""


class Looking(nn.Module):
    """Pictures (B, K, C, H, W) in [−1, 1], K of each of B subjects, to a vector a subject, (B, width).

    Args:
        base: the model whose features are read; it stays outside of the weights.
        config: of the encoder's own network.
        width: features of the result.

    Raises:
        InputError: when the network does not take the size of the pictures.
    """

    def __init__(self, base: NetDenoiser, config: EncoderConfig, width: int) -> None:
        super().__init__()
        channels, *size = base.space.data_shape(base.shape)
        self.base, self.channels, self.width, self.config = base, base.shape[0], width, config
        known = taps.find(base, taps.sites(base))
        self.sites = [name for name, place in known.items() if f"{name}.in" in known and not place.attention]
        blank = torch.zeros(1, channels, *size, device=base.device, dtype=base.dtype)
        self.own = Encoder(config, channels=channels, size=(size[0], size[1]), classes=width)
        self.others = nn.Sequential(
            nn.LayerNorm(self.features(blank).shape[1]), nn.Linear(self.features(blank).shape[1], width)
        )

    def features(self, images: Tensor) -> Tensor:
        """What the base makes of pictures (B, C, H, W) in each block, the mean over places, side by side, (B, D)."""
        return torch.cat(self.levels(images), 1)

    @torch.no_grad()
    def levels(self, images: Tensor) -> list[Tensor]:
        """The same one behind the other, in the order of the blocks."""
        x0 = self.base.space.encode(images)
        point = self.base.schedule.at(0.5 * CLEAN)
        seen = taps.features(self.base, self.sites, point.alpha * x0, point)
        return [seen[site].mean((2, 3) if seen[site].ndim == 4 else 1) for site in self.sites]

    def forward(self, shown: Tensor) -> Tensor:
        each = shown.flatten(0, 1)
        seen = self.own(each, each.new_zeros(())) + self.others(self.features(each))
        return F.silu(seen.unflatten(0, shown.shape[:2]).mean(1))


class Patches(nn.Module):
    """Pictures (B, K, C, H, W), of which ``masks`` (B, K, 1, H, W) say what is looked at, to tokens (B, K·P, width), zero where that is
    nothing.

    Args:
        look: whose settings its network has.
        width: features of a token.
    """

    def __init__(self, look: Looking, width: int) -> None:
        super().__init__()
        size, multiple = look.own.size, look.own.multiple
        self.own = Encoder(look.config, channels=look.own.channels, size=size, classes=1)
        channels = self.own.out.in_features
        del self.own.pool, self.own.out
        self.positions = nn.Parameter(torch.randn((size[0] // multiple) * (size[1] // multiple), channels))
        self.leave = nn.Linear(channels, width)

    def forward(self, shown: Tensor, masks: Tensor | None) -> Tensor:
        each = (shown if masks is None else shown * masks).flatten(0, 1)
        places = self.own.places(each, each.new_zeros(()))
        seen = F.silu(self.leave(places.flatten(2).transpose(1, 2) + self.positions))
        if masks is not None:
            seen = seen * F.adaptive_max_pool2d(masks.flatten(0, 1), places.shape[2:]).flatten(2).transpose(1, 2)
        return seen.unflatten(0, shown.shape[:2]).flatten(1, 2)


class Predicted(NamedTuple):
    """What an encoder says of B subjects: ``numbers`` (B, …) by their names in an adapter, ``parts`` (B,) of a loss that it adds, and the
    ``sight`` of B subjects, if the model is shown them."""

    numbers: dict[str, Tensor]
    parts: dict[str, Tensor]
    sight: Sight | None = None


class Predictor(nn.Module, ABC):
    """Pictures (B, K, C, H, W) of B subjects to the numbers of an adapter of each.

    Attributes:
        adapter: holds what is not predicted: numbers that all subjects share, learned with the predictor where they require a gradient.
        masked: whether it looks at a part of the pictures, ``masks`` (B, K, 1, H, W), 1 where the subject is; everywhere without.
        named: whether the word of a subject may be another than that of all subjects, as it is not predicted.
    """

    adapter: Adapter
    masked: ClassVar[bool] = False
    named: ClassVar[bool] = False

    @abstractmethod
    def forward(self, shown: Tensor, masks: Tensor | None = None) -> Predicted: ...
