"""FastComposer (Xiao et al., "FastComposer: Tuning-Free Multi-Subject Image Generation with Localized Attention", 2023, arXiv:2305.10431).

A subject is one vector, cut out of its picture. Behind the text encoder a perceptron puts it into the token of its noun (section 4.1),

    c  ->  c + MLP([c, s]),

so that "a fox and an owl" is told of two of them at once. Training shows each picture its own subjects, told by its own caption. So that
their looks do not mix, the map of cross-attention of each of their tokens is drawn to where it is (section 4.2, equation 5),

    mean of A_k where subject k is not  −  mean of A_k where it is,

the mean over heads and the five middle layers, weight 0.001; and for a half of the pictures the error counts where subjects are, and there
alone. Drawn, the first share of the steps is told words alone, which decide what is where (delayed conditioning, section 4.3).

Both perceptrons of the authors' code are here, each ending at zero, so that at first the model is the base; the normalisation behind them
is left out for that. The base stays as it is, where the paper trains it along.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from reverie.adapt.looking import Looking, Predicted, Predictor
from reverie.adapt.sights import Sight, check_reads, crossing
from reverie.nets.layers import zeroed

if TYPE_CHECKING:
    from reverie.adapt.adapter import Adapter


class Fusing(nn.Module):
    """The perceptrons: a token (…, D) and a subject (…, S) to what the token says of it, (…, D)."""

    def __init__(self, width: int, subject: int) -> None:
        super().__init__()
        self.first, self.second = (
            nn.Sequential(nn.LayerNorm(n), nn.Linear(n, width), nn.GELU(), zeroed(nn.Linear(width, width)))
            for n in (width + subject, width)
        )

    def forward(self, token: Tensor, subject: Tensor) -> Tensor:
        token = token + self.first(torch.cat([token, subject], -1))
        return token + self.second(token)


class Fused(Sight):
    """A subject in its token.

    ``numbers`` are ``subject`` (B, S) and those of :class:`Fusing`, with slashes for points.
    """

    kind: ClassVar[str] = "fastcomposer"

    @property
    def attends(self) -> Collection[str]:
        return ()

    def read(self, text: Tensor, mask: Tensor | None, where: Tensor, share: Tensor) -> tuple[Tensor, Tensor | None]:
        own = {name.replace("/", "."): value for name, value in self.numbers.items()}
        subject = own.pop("subject")
        with torch.device("meta"):
            net = Fusing(text.shape[-1], subject.shape[-1])
        subject = subject.repeat(len(text) // len(subject), 1)[:, None].expand(-1, text.shape[1], -1)
        said = functional_call(net, own, (text.to(subject), subject)).to(text)
        return text + (share[:, None] * where)[..., None].to(text) * (said - text), mask


class FastComposer(Predictor):
    """Subjects as vectors in the tokens of their nouns.

    Args:
        look: at pictures of a subject, the ground grey.
        adapter: with the word of the subjects as the row of its one token.
        delay: share of the steps that are told words alone.

    Raises:
        InputError: for a base that reads no texts by cross-attention.
    """

    masked: ClassVar[bool] = True
    named: ClassVar[bool] = True

    def __init__(self, look: Looking, adapter: Adapter, delay: float) -> None:
        super().__init__()
        check_reads(look.base)
        crossing(look.base.net)
        self.adapter, self.delay, self.look = adapter.requires_grad_(False), delay, look
        self.fusing = Fusing(look.base.conditions["text"].dim, look.width)  # pyright: ignore[reportAttributeAccessIssue]

    def forward(self, shown: Tensor, masks: Tensor | None = None) -> Predicted:
        return Predicted({}, {}, self.sight(self.look(shown if masks is None else shown * masks), self.delay))

    def sight(self, subject: Tensor, delay: float = 0.0) -> Fused:
        """Of subjects (B, S)."""
        own = {name.replace(".", "/"): value for name, value in self.fusing.named_parameters()}
        return Fused({"subject": subject, **own}, delay)
