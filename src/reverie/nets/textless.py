"""A ControlNet for MM-DiTs that no text reaches: the form of those for Stable Diffusion 3.5 Large.

It is no copy. It begins with the frozen network's own tokens of x_t, to which the hint's code is added in patches, and is made of a DiT's
blocks (Peebles & Xie, ICCV 2023), told the time and the pooled vector. What it adds, and where, is as in
:class:`~reverie.nets.controlnet.ControlNet`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from reverie.core.errors import InputError
from reverie.nets.config import DiTConfig, MMDiTConfig
from reverie.nets.controlnet import Hinted, coded, entering, spread, without_vector
from reverie.nets.dit import Block
from reverie.nets.embeddings import Conditioning, TimeEmbedding
from reverie.nets.layers import zeroed
from reverie.nets.mmdit import MMDiT

if TYPE_CHECKING:
    from reverie.core.condition import Cond
    from reverie.core.denoiser import Denoiser
    from reverie.core.space import Space
    from reverie.nets.places import Place


class Textless(Hinted):
    """Blocks of the picture alone beside an MM-DiT.

    Args:
        net: the MM-DiT, whose patch, width, heads and pooled vector they have.
        hint: channels of the hint, as of a ControlNet of an MM-DiT.
        depth: number of blocks.

    Attributes:
        bare: as of :class:`~reverie.nets.controlnet.ControlNet`.
    """

    bare: bool = False

    def __init__(self, net: MMDiT, hint: int, depth: int) -> None:
        super().__init__(net, hint, None)
        config = net.config
        assert isinstance(config, MMDiTConfig)
        own = DiTConfig(patch=config.patch, width=config.width, depth=depth, heads=config.heads)
        self.width, self.code = config.width, (net.channels, *net.size)
        self.sites = [f"blocks.{i}" for i in range(depth)]
        self.conditioning = Conditioning(TimeEmbedding(256, config.width), None, config.vector)
        self.hint = entering(net, hint)
        self.blocks = nn.ModuleList(Block(own, net.size) for _ in range(depth))
        self.zeros = nn.ModuleList(zeroed(nn.Linear(config.width, config.width)) for _ in range(depth))
        self.to(net.embed.weight)

    def places(self, model: nn.Module | Denoiser) -> dict[str, tuple[str, Place]]:
        return spread(self.sites, model, self.width)

    def told(self, hint: Tensor, space: Space) -> Tensor:
        return coded(hint, space, self.code, self.bare)

    def forward(
        self, x: Tensor, time: Tensor, cond: Cond | None, hint: Tensor, net: nn.Module | None = None
    ) -> dict[str, Tensor]:
        if not isinstance(net, MMDiT):
            raise InputError(
                "this ControlNet begins with the tokens of the network that it steers: give it, an MM-DiT of ours"
            )
        condition = self.conditioning(time, without_vector(cond) if self.bare else cond, len(x))
        h = net.tokens(x) + self.hint(hint.to(x.dtype)).flatten(2).transpose(1, 2)
        added = {}
        for site, block, zero in zip(self.sites, self.blocks, self.zeros, strict=True):
            h = block(h, condition)
            added[site] = zero(h)
        return added
