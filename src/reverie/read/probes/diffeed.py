"""DifFeed: what the decoder saw is told to the encoder, and the network looks a second time.

Mukhopadhyay et al., "Do text-free diffusion models learn discriminative visual representations?", ECCV 2024 (arXiv:2311.17921).
The first pass keeps decoder maps; each goes through a small network F_b to the encoder block that gave its skip connection
(block b to block 38 − b of the paper's network of 37) and is added there in the second pass, before the skip is stored. The
diffusion network stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.core.condition import Cond
from reverie.core.denoiser import NetDenoiser
from reverie.core.errors import InputError
from reverie.core.schedules import HostPoint
from reverie.nets import taps
from reverie.nets.layout import as_map
from reverie.nets.skips import pairs


class DifFeed(nn.Module):
    """Two passes with feedback, and a head on the map of one decoder block in the second; ``parameters()`` are the trained ones only.

    Args:
        denoise: the model; its network is frozen by this.
        point: the noise level of both passes.
        read: the decoder block that the head reads.
        head: (B, C, h, w) -> (B, classes).
        feed: decoder blocks that give feedback; all with a partner by default.
    """

    def __init__(
        self, denoise: NetDenoiser, point: HostPoint, read: str, head: nn.Module, feed: Sequence[str] | None = None
    ) -> None:
        super().__init__()
        partner = dict(pairs(denoise.net))
        if feed is not None and (other := next((site for site in feed if site not in partner), None)):
            raise InputError(f"{other!r} gives no feedback; these do: {', '.join(partner)}")
        self.partner = {site: partner[site] for site in (partner if feed is None else feed)}
        self.point, self.read, self.head = point, read, head
        self.denoise = (denoise,)  # in a tuple its parameters are not ours
        denoise.net.requires_grad_(False)
        x = torch.zeros(1, *denoise.shape, device=denoise.device)
        with torch.no_grad():
            seen = taps.features(denoise, [*self.partner, *self.partner.values()], x, point)
        self.feedback = nn.ModuleDict(
            {
                site.replace(".", "-"): nn.Sequential(
                    nn.Conv2d(seen[site].shape[1], seen[to].shape[1], 1, bias=False),
                    nn.BatchNorm2d(seen[to].shape[1]),
                    nn.ReLU(),
                )
                for site, to in self.partner.items()
            }
        )

    def map(self, x_t: Tensor, cond: Cond | None = None) -> Tensor:
        """The map (B, C, h, w) of the second pass; differentiable in the feedback networks."""
        (denoise,) = self.denoise
        with torch.no_grad():
            first = taps.features(denoise, list(self.partner), x_t, self.point, cond)
        back = {to: self.feedback[site.replace(".", "-")](first[site]) for site, to in self.partner.items()}

        def add(value: Tensor, at: taps.At) -> Tensor:
            return value + F.interpolate(back[at.site], value.shape[-2:], mode="bilinear", align_corners=False)

        fed = taps.replace(denoise, dict.fromkeys(back, add))
        return as_map(taps.features(fed, [self.read], x_t, self.point, cond)[self.read], x_t.shape[-2:])

    def forward(self, x_t: Tensor, cond: Cond | None = None) -> Tensor:
        return self.head(self.map(x_t, cond))
