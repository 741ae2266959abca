"""E4T (Gal et al., "Encoder-based Domain Tuning for Fast Personalization of Text-to-Image Models", SIGGRAPH 2023).

An encoder of pictures of one domain says of a subject where its word lies beside that of the domain, ``v = v_domain + s·e``, with the
penalty ``λ·‖e‖²`` that keeps it near, where the model still knows what to do with it (section 3.1; s = 0.1, λ = 0.01). Beside it all
subjects of the domain share offsets of the weights, ``W∘(1 + Δ)``, each Δ made of a vector a row and one a column (section 3.3). A few
steps of tuning on the very pictures, of word and offsets, do the rest (section 3.4).

Here v lies at ``v_domain + s·|v_domain|·e``, ``|v|`` the root mean square of its numbers, and the norm of e is a mean over them, so that
the same s and λ serve the words of any text encoder and the classes of any network. CLIP's words, of ``|v| = 0.015``, make of the paper's s
the 7 that is the default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import Tensor, nn

from reverie.adapt.change import Change, layers
from reverie.adapt.looking import Looking, Predicted, Predictor
from reverie.nets.layers import zeroed

if TYPE_CHECKING:
    from reverie.adapt.adapter import Adapter


class Offsets(Change):
    """``W∘(row·columnᵀ)``: ``row`` (out,), zero at first, and ``column`` (in·k²,), one at first."""

    kind: ClassVar[str] = "e4t"

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.row, self.column = nn.Parameter(torch.zeros(rows)), nn.Parameter(torch.ones(columns))

    @classmethod
    def blank(cls, shape: tuple[int, ...], settings: Mapping[str, float]) -> Self:
        return cls(shape[0], torch.Size(shape[1:]).numel())

    def delta(self, weight: Tensor) -> Tensor:
        return weight * (self.row[:, None] * self.column).reshape(weight.shape).to(weight.dtype)


def changes(net: nn.Module, pattern: str) -> dict[str, Change]:
    """Offsets of zero for the layers of a network that match ``pattern``, by weight.

    Raises:
        InputError: when none match.
    """
    return {name: Offsets.blank(tuple(weight.shape), {}) for name, weight in layers(net, pattern).items()}


class E4T(Predictor):
    """The word of each subject beside the domain's.

    Args:
        look: at the pictures.
        adapter: with the domain's word as the row of its one token, and offsets.
        step: s.
        norm: λ.
    """

    def __init__(self, look: Looking, adapter: Adapter, step: float, norm: float) -> None:
        super().__init__()
        self.adapter, self.step, self.norm = adapter, step, norm
        (self.token,) = adapter.tokens
        adapter.rows.requires_grad_(False)
        self.look = look
        self.offset = zeroed(nn.Linear(look.width, adapter.rows[self.token].numel()))

    def forward(self, shown: Tensor, masks: Tensor | None = None) -> Predicted:
        domain, e = self.adapter.rows[self.token], self.offset(self.look(shown))
        row = domain + self.step * domain.square().mean().sqrt() * e.reshape(-1, *domain.shape)
        return Predicted({f"rows.{self.token}": row}, {"norm": self.norm * e.square().mean(1)})
