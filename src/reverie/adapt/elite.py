"""ELITE (Wei et al., "ELITE: Encoding Visual Concepts into Textual Embeddings for Customized Text-to-Image Generation", ICCV 2023).

A global mapping says a subject in several words, each from features of another depth (section 3.2): the first, of the deepest, is its
word; the others take up what does not belong to it, and are left out when it is drawn. Their size is held by ``λ·|v|``, the mean over their
numbers, λ = 0.01 (equation 5). A local mapping (section 3.3) then makes keys and values of the patches of the subject, the ground masked,
and shows them where its word is looked at,

    Attn(Q, K, V)  +  s·(A_w / max A_w)·Attn(Q, K', V'),

A_w the word's map. It learns by the error where the subject is, and ``λ·|V'|``, λ = 1e-4 (equations 6 to 8), while the words stay.

The paper reads five layers of CLIP; here it is the base's own blocks at little noise, the first half and the middle of a U-Net, and a small
network, see :mod:`reverie.adapt.looking`. The first word lies beside the word of what all subjects are, at which it begins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.adapt.keys import Keyed, Keys
from reverie.adapt.looking import Looking, Patches, Predicted, Predictor
from reverie.adapt.sights import check_reads
from reverie.nets import taps
from reverie.nets.layers import zeroed

if TYPE_CHECKING:
    from reverie.adapt.adapter import Adapter

EPS = 1e-6


class WordKeys(Keys):
    """K' and V', seen as much as a place looks at the word."""

    kind: ClassVar[str] = "elite"

    def add(self, q: Tensor, k: Tensor, where: Tensor, at: taps.AttentionAt) -> Tensor:
        word = (at.probabilities(q, k) * where[:, None, None, :]).sum(-1, keepdim=True)
        return word / word.amax(2, keepdim=True).clamp(min=EPS) * super().add(q, k, where, at)


class Words(nn.Module):
    """The global mapping: pictures (B, K, C, H, W) to the rows of several words, the first that of the subject.

    Args:
        look: at the pictures.
        rows: what the words begin at, the first that of what all subjects are.
    """

    def __init__(self, look: Looking, rows: list[Tensor]) -> None:
        super().__init__()
        self.look, self.starts = look, rows
        self.depths = depths(look.sites, len(rows))
        blank = torch.zeros(1, look.own.channels, *look.own.size, device=look.base.device, dtype=look.base.dtype)
        widths = [level.shape[1] for level in look.levels(blank)]
        self.levels = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(widths[i]), nn.Linear(widths[i], look.width)) for i in self.depths
        )
        self.says = nn.ModuleList(zeroed(nn.Linear(look.width, row.numel())) for row in rows)
        self.size = float(rows[0].square().mean().sqrt())

    def forward(self, shown: Tensor) -> list[Tensor]:
        seen, levels = self.look(shown), self.look.levels(shown.flatten(0, 1))
        found: list[Tensor] = []
        for i, start, level, say in zip(self.depths, self.starts, self.levels, self.says, strict=True):
            at = level(levels[i]).unflatten(0, shown.shape[:2]).mean(1)
            found.append(start.to(at) + self.size * say(F.silu(seen + at)).unflatten(1, start.shape))
        return found


def depths(sites: list[str], count: int) -> list[int]:
    """The positions of ``count`` blocks, evenly spread and the deepest first: among all, or of a U-Net among those up to its middle."""
    middle = [i for i, site in enumerate(sites) if site.startswith(("middle", "mid_block"))]
    last = middle[-1] if middle else len(sites) - 1
    return [round(last * (1.0 - j / max(1, count - 1))) for j in range(count)]


class Local(nn.Module):
    """The local mapping: the patches of the subject to keys and values."""

    def __init__(self, look: Looking) -> None:
        super().__init__()
        self.patches, self.keyed = Patches(look, look.width), Keyed(look, look.width)

    def forward(self, shown: Tensor, masks: Tensor | None) -> dict[str, Tensor]:
        return self.keyed(self.patches(shown, masks))


class ELITE(Predictor):
    """Words of a subject, and what is seen of it where its own is looked at.

    Args:
        look: at the pictures.
        adapter: with the word of what all subjects are as the row of its one token; the others join it.
        count: of words.
        small: λ of the words.
        light: λ of the values.

    Raises:
        InputError: for a base that reads no texts by cross-attention.
    """

    masked: ClassVar[bool] = True

    def __init__(self, look: Looking, adapter: Adapter, count: int, small: float, light: float) -> None:
        super().__init__()
        check_reads(look.base)
        self.adapter, self.small, self.light = adapter.requires_grad_(False), small, light
        (token,) = adapter.tokens
        row = adapter.rows[token].detach()
        for i in range(1, count):
            blank = torch.zeros_like(row if row.ndim == 1 else row[:1])
            adapter.rows[f"{token[:-1]}_{i}>"] = nn.Parameter(blank, requires_grad=False)
        self.local = Local(look)
        self.words = Words(look, [value.detach() for value in adapter.rows.values()])

    def forward(self, shown: Tensor, masks: Tensor | None = None) -> Predicted:
        words, keys = self.words(shown), self.local(shown, masks)
        numbers = {f"rows.{token}": row for token, row in zip(self.adapter.tokens, words, strict=True)}
        size = torch.stack([word.flatten(1).abs().mean(1) for word in words]).mean(0)
        values = [value.abs().mean((1, 2, 3)) for name, value in keys.items() if name.endswith("/values")]
        parts = {"words": self.small * size, "values": self.light * torch.stack(values).mean(0)}
        return Predicted(numbers, parts, WordKeys(keys))
