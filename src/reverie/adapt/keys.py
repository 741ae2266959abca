"""Further keys and values of cross-attention, made of patches of pictures: what ELITE and the demonstrations of a subject share.

Beside the text, each place of the picture that is drawn looks at patches of pictures of the subject, with the query that the base has,

    softmax(Q·Kᵀ/√d)·V + g·softmax(Q·K'ᵀ/√d)·V',

K' and V' linear in the patches, of each attention its own. They are functions of the pictures alone, so an adapter keeps K' and V'.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.adapt.looking import Looking
from reverie.adapt.sights import Sight, crossing, rows
from reverie.core.call import Now, run
from reverie.nets import taps
from reverie.nets.layers import zeroed


class Keys(Sight):
    """K' and V' of each attention, added where the text names the subject.

    ``numbers`` are ``SITE/keys`` and ``SITE/values`` (B, heads, P, d), the site with slashes for points.
    """

    kind: ClassVar[str] = "keys"

    @property
    def attends(self) -> Collection[str]:
        return {name.rpartition("/")[0].replace("/", ".") for name in self.numbers if name.endswith("/keys")}

    def add(self, q: Tensor, k: Tensor, where: Tensor, at: taps.AttentionAt) -> Tensor:
        site = at.site.replace(".", "/")
        keys, values = (rows(self.numbers[f"{site}/{part}"], at, len(q)).to(q) for part in ("keys", "values"))
        return F.scaled_dot_product_attention(q, keys, values, scale=at.scale)


class Keyed(nn.Module):
    """Tokens (B, P, width) to the keys and values of each attention of a network.

    Args:
        look: with the base whose attentions they are.
        width: features of a token.
        closed: whether the values begin at zero.

    Raises:
        InputError: for a base without cross-attention.
    """

    def __init__(self, look: Looking, width: int, closed: bool = True) -> None:
        super().__init__()
        self.shapes = shapes(look)
        parts = {"keys": lambda linear: linear, "values": zeroed if closed else lambda linear: linear}
        self.maps = nn.ModuleDict(
            {
                f"{site.replace('.', '/')}/{part}": begin(nn.Linear(width, heads * d, bias=False))
                for site, (heads, d) in self.shapes.items()
                for part, begin in parts.items()
            }
        )

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, linear in self.maps.items():
            heads, _ = self.shapes[name.rpartition("/")[0].replace("/", ".")]
            found[name] = linear(tokens).unflatten(-1, (heads, -1)).transpose(1, 2)
        return found


@torch.no_grad()
def shapes(look: Looking) -> Mapping[str, tuple[int, int]]:
    """The heads and features a head of each attention to the text in the base, by site."""
    base, found = look.base, dict[str, tuple[int, int]]()

    def see(q: Tensor, k: Tensor, v: Tensor, at: taps.AttentionAt) -> Tensor:
        found[at.site] = (q.shape[1], q.shape[3])
        return at.attend(q, k, v)

    sites = crossing(base.net)
    blank = torch.zeros(1, *base.shape, device=base.device, dtype=base.dtype)
    run(base.net, [taps.AttentionEdit(sites, dict.fromkeys(sites, see))], Now(), blank, blank.new_zeros(()), None)
    return found
