"""Demonstrations: pictures of a subject that a frozen model of texts is shown while it draws, by one branch with three ways in.

* SuTI (Chen et al., "Subject-driven Text-to-Image Generation via Apprenticeship Learning", NeurIPS 2023): places of the picture attend
  to features of K demonstrations. The apprentice learns from what experts have drawn, a tuned model for each subject: its data is such a
  folder of drawn pictures a subject.
* InstantBooth (Shi et al., "InstantBooth: Personalized Text-to-Image Generation without Test-Time Finetuning", CVPR 2024): the word of
  the subject is predicted, and layers behind a gate that begins closed, tanh γ with γ = 0, attend to features of its patches; what is
  shown is cut out of its ground, and cropped and mirrored at random.
* Taming (Jia et al., "Taming Encoder for Zero Fine-tuning Image Customization with Text-to-Image Diffusion Models", 2023,
  arXiv:2304.02642): tokens of the object stand beside those of the text; the ground of what is shown is masked at random.

They are recipes of one task that differ in settings and data. Its parts are

    row + e,    [text, tokens],    softmax(Q·Kᵀ/√d)·V + tanh γ·softmax(Q·K'ᵀ/√d)·V'.

The queries are the base's own, where InstantBooth's layers and SuTI's bring theirs. The base stays as it is, and with it what the joint
training of Taming is regularised to keep.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.adapt.keys import Keyed, Keys
from reverie.adapt.looking import Looking, Patches, Predicted, Predictor
from reverie.adapt.sights import check_reads, crossing
from reverie.core.draws import Draws
from reverie.nets.layers import zeroed

if TYPE_CHECKING:
    from reverie.adapt.adapter import Adapter

TOKENS = "tokens"


class Demonstration(Keys):
    """Further keys and values, and tokens beside the text.

    ``numbers`` are those of :class:`~reverie.adapt.keys.Keys`, if it has such, and ``tokens`` (B, n, D) likewise.
    """

    kind: ClassVar[str] = "demonstrations"

    def read(self, text: Tensor, mask: Tensor | None, where: Tensor, share: Tensor) -> tuple[Tensor, Tensor | None]:
        if TOKENS not in self.numbers:
            return text, mask
        own = self.numbers[TOKENS].to(text)
        own = share.to(text)[:, None, None] * own.repeat(len(text) // len(own), 1, 1)
        real = (
            torch.ones(text.shape[:2], dtype=torch.bool, device=text.device)
            if mask is None
            else mask.expand(len(text), -1)
        )
        there = (share != 0)[:, None].expand(-1, own.shape[1])
        return torch.cat([text, own], 1), torch.cat([real, there], 1)


class Demonstrated(Predictor):
    """What is shown of demonstrations, in up to three ways.

    Args:
        look: at them.
        adapter: with the word of what all subjects are as the row of its one token.
        word: whether the subject has a word of its own beside that.
        patches: whether places attend to the patches of demonstrations.
        beside: how many tokens stand beside the text.

    Raises:
        InputError: for a base that reads no texts by cross-attention.
    """

    masked: ClassVar[bool] = True

    def __init__(self, look: Looking, adapter: Adapter, word: bool, patches: bool, beside: int) -> None:
        super().__init__()
        check_reads(look.base)
        sites, dim = crossing(look.base.net), look.base.conditions["text"].dim  # pyright: ignore[reportAttributeAccessIssue]
        self.adapter, self.look, self.beside = adapter.requires_grad_(False), look, beside
        (self.token,) = adapter.tokens
        self.offset = zeroed(nn.Linear(look.width, adapter.rows[self.token].numel())) if word else None
        self.patches = Patches(look, look.width) if patches else None
        self.keyed = Keyed(look, look.width, closed=False) if patches else None
        self.gates = nn.Parameter(torch.zeros(len(sites))) if patches else None
        self.objects = nn.Linear(look.width, beside * dim) if beside else None

    @property
    def named(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.offset is None

    def forward(self, shown: Tensor, masks: Tensor | None = None) -> Predicted:
        own = shown if masks is None else shown * masks
        seen, numbers, sight = self.look(own), dict[str, Tensor](), dict[str, Tensor]()
        if self.offset is not None:
            row = self.adapter.rows[self.token]
            e = row.square().mean().sqrt() * self.offset(seen)
            numbers[f"rows.{self.token}"] = row + e.unflatten(1, row.shape)
        if self.patches is not None and self.keyed is not None and self.gates is not None:
            sight |= self.keyed(self.patches(own, masks))
            for site, gate in zip(self.keyed.shapes, self.gates.tanh(), strict=True):
                sight[f"{site.replace('.', '/')}/values"] = gate * sight[f"{site.replace('.', '/')}/values"]
        if self.objects is not None:
            sight[TOKENS] = self.objects(seen).unflatten(1, (self.beside, -1))
        return Predicted(numbers, {}, Demonstration(sight))


def cropped(shown: Tensor, masks: Tensor, by: float, rng: Draws) -> tuple[Tensor, Tensor]:
    """Demonstrations (B, K, C, H, W) and where the subject is in them, (B, K, 1, H, W), in sections of at least 1 − ``by`` of their sides,
    a half of them mirrored."""
    b, k = shown.shape[:2]
    draws = torch.stack([rng.uniform(f"{what} {i}") for i in range(k) for what in ("zoom", "down", "right", "turn")], 1)
    zoom, down, right, turn = draws.to(shown).reshape(b * k, 4).unbind(1)
    side, zero = 1.0 - by * zoom, torch.zeros_like(zoom)
    rows = [
        torch.where(turn < 0.5, -side, side),
        zero,
        (1.0 - side) * (2.0 * right - 1.0),
        zero,
        side,
        (1.0 - side) * (2.0 * down - 1.0),
    ]
    whole = torch.cat([shown, masks.to(shown)], 2).flatten(0, 1)
    grid = F.affine_grid(torch.stack(rows, 1).reshape(-1, 2, 3), list(whole.shape), align_corners=False)
    made = F.grid_sample(whole, grid, padding_mode="border", align_corners=False).unflatten(0, (b, k))
    return made[:, :, :-1], (made[:, :, -1:] > 0.5).to(masks)
