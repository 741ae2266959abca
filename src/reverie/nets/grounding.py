"""GLIGEN: boxes with what is to be in them as tokens, which a frozen network reads by gated self-attention.

Li et al., "GLIGEN: Open-Set Grounded Text-to-Image Generation", CVPR 2023 (arXiv:2301.07093). The token of a box is a perceptron of what
it is to hold and of the Fourier features of its corners, h = MLP(f(e), Fourier(l)) (equation 5). Behind what attends in the frozen
network its places v and the tokens attend to each other, and the places keep the result, v + tanh(γ)·TS(SelfAttn([v, h])) (equation 7),
with a gated perceptron behind it as in the authors' code. γ begins at 0: so the first step is the frozen network's, bit for bit. The
paper's layers stand inside of each transformer block, before its cross-attention; these stand behind the block. A place is told the
Fourier features of its own corners too, where the paper leaves it to the network to know where they are.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.core.call import Call, Now, per_branch
from reverie.core.errors import InputError
from reverie.nets.attention import Attention
from reverie.nets.copies import sharing
from reverie.nets.layers import FeedForward
from reverie.nets.places import Place

if TYPE_CHECKING:
    from reverie.core.schedules import Point

FREQUENCIES = 8
"""Of the Fourier features of a corner, from 1 on, geometric, up to 100 (exclusive)."""


class Boxes(NamedTuple):
    """Boxes of samples, padded.

    Args:
        what: of each box what it is to hold, (B, M, D).
        corners: (B, M, 4), top, left, bottom and right in shares of height and width.
        there: (B, M) bool, false where there is no box.
    """

    what: Tensor
    corners: Tensor
    there: Tensor


def cells(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """The corners of the places of a grid, row by row, (height * width, 4)."""
    rows, columns = (torch.arange(side, device=device) / side for side in (height, width))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([y, x, y + 1 / height, x + 1 / width], -1).flatten(0, 1)


def fourier(corners: Tensor) -> Tensor:
    """Sines and cosines of the corners (…, 4) at :data:`FREQUENCIES` frequencies: (…, 64)."""
    rates = 100.0 ** (torch.arange(FREQUENCIES, device=corners.device, dtype=corners.dtype) / FREQUENCIES)
    angles = (corners[..., None] * rates).flatten(-2)
    return torch.cat([angles.sin(), angles.cos()], -1)


class GatedAttention(nn.Module):
    """Places (B, N, width) that attend to each other and to tokens (B, M, tokens), and a perceptron, each behind a gate that is closed."""

    def __init__(self, width: int, tokens: int) -> None:
        super().__init__()
        self.enter, self.place = nn.Linear(tokens, width), nn.Linear(8 * FREQUENCIES, width)
        self.norm, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.mlp = Attention(width, math.gcd(width, 8)), FeedForward(width, 4 * width)
        self.gates = nn.Parameter(torch.zeros(2))

    def forward(self, v: Tensor, places: Tensor, tokens: Tensor, there: Tensor) -> Tensor:
        """What is added to the places, whose Fourier features are ``places`` (N, 64)."""
        n, (gate, gate_mlp) = v.shape[1], self.gates.tanh()
        whole, real = torch.cat([v + self.place(places), self.enter(tokens)], 1), F.pad(there, (n, 0), value=True)
        q, k, w = self.attention.split(self.attention.qkv(self.norm(whole)), 3)
        added = gate * self.attention.out(self.attention.attend(q, k, w, real)[:, :n])
        return added + gate_mlp * self.mlp(self.norm_mlp(v + added))


class Grounding(nn.Module):
    """The tokens of boxes, and what reads them behind the blocks of a frozen network.

    Args:
        widths: of what passes the network's blocks, by their sites.
        what: numbers D by which it is said what a box is to hold.
        width: of a token.
        classes: of boxes, each of which has D numbers of its own to learn; 0 where these are of a text.
        base: the SHA-256 of the network's weights.
    """

    def __init__(self, widths: Mapping[str, int], what: int, width: int, classes: int, base: str | None) -> None:
        super().__init__()
        self.sites, self.base = list(widths), base
        self.classes = nn.Embedding(classes, what) if classes else None
        self.inner, self.middle = nn.Linear(what + 8 * FREQUENCIES, width), nn.Linear(width, width)
        self.outer = nn.Linear(width, width)
        self.layers = nn.ModuleList(GatedAttention(n, width) for n in widths.values())

    def forward(self, boxes: Boxes) -> Tensor:
        """The tokens, (B, M, width)."""
        h = torch.cat([boxes.what, fourier(boxes.corners).to(boxes.what.dtype)], -1)
        return self.outer(F.silu(self.middle(F.silu(self.inner(h)))))


class Grounded:
    """The change of a call (:mod:`reverie.core.call`) that lets a network read boxes.

    Args:
        net: what reads them.
        places: of its sites in the network that is called.
        boxes: of n samples, or of one for all.
        interval: the logsnr between which they are read.
    """

    def __init__(
        self,
        net: Grounding,
        places: Mapping[str, Place],
        boxes: Boxes,
        interval: tuple[float, float] = (-math.inf, math.inf),
    ) -> None:
        self.net, self.places, self.boxes, self.interval = net, places, boxes, interval

    @property
    def sites(self) -> Collection[str]:
        return self.places

    def __call__(self, net: nn.Module, now: Now) -> nn.Module:
        net = sharing(net, [place.path for place in self.places.values()])
        read, patch = dict[str, Any](), getattr(getattr(net, "config", None), "patch", 1)

        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = args[0]
            parts = (per_branch(part.to(x.device), len(x), Call(now.branches)) for part in self.boxes)
            boxes = Boxes(*parts)
            if len(boxes.there) not in (1, len(x)):
                raise InputError(
                    f"got the boxes of {len(boxes.there)} samples for {len(x)}: give one layout, or one a sample"
                )
            tokens = self.net(boxes._replace(what=boxes.what.to(x.dtype)))
            read.update(tokens=tokens.expand(len(x), -1, -1), there=boxes.there.expand(len(x), -1))
            read.update(share=self._share(now.point, x), size=[side // patch for side in x.shape[2:]])

        def add(site: str, layer: nn.Module, value: Tensor) -> Tensor:
            now.fired.add(site)
            v = value.flatten(2).transpose(1, 2) if value.ndim == 4 else value
            features = fourier(cells(*(value.shape[2:] if value.ndim == 4 else read["size"]), device=v.device)).to(v)
            features = F.pad(features, (0, 0, v.shape[1] - len(features), 0))  # what stands before the places has none
            added = read["share"].reshape(-1, 1, 1) * layer(v, features, read["tokens"], read["there"])
            return value + (added.transpose(1, 2).reshape(value.shape) if value.ndim == 4 else added)

        net.register_forward_pre_hook(enter, with_kwargs=True)
        for (site, place), layer in zip(self.places.items(), self.net.layers, strict=True):
            place.hook(net, partial(add, site, layer))
        return net

    def _share(self, point: Point | None, x: Tensor) -> Tensor:
        low, high = self.interval
        if point is None or (low, high) == (-math.inf, math.inf):
            return x.new_ones(1)
        logsnr = torch.as_tensor(point.logsnr, device=x.device).flatten()
        return ((low <= logsnr) & (logsnr <= high)).to(x.dtype)
