"""StyleDrop (Sohn et al., "StyleDrop: Text-to-Image Generation in Any Style", NeurIPS 2023): a style from one picture.

An adapter is trained on a picture under what it shows, so that the style goes into the weights and what is shown stays in the condition:
``fit(model, image, "lora", like="3")``, without a token. What is drawn is guided on two levels (section 3.2), towards the style by what
the adapter A changes of the base B, and towards the content c by what that changes of nothing:

    A(c) + λ_A·(A(c) − B(c)) + λ_B·(B(c) − B(∅)).

These are logits of a model of tokens, as in the paper, or a diffusion model's predictions. Few pictures leave open what of them is style:
a second round also trains on pictures of the first that a score chose (section 3.3).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from reverie.adapt.adapter import Adapter
from reverie.adapt.applying import apply
from reverie.adapt.tokens import Model
from reverie.adapt.training import draw, fit
from reverie.core.condition import Cond
from reverie.core.denoiser import NetDenoiser
from reverie.core.errors import InputError
from reverie.guide import auto, cfg


def styled(model: Model, adapter: Adapter, style: float = 2.0, content: float = 5.0) -> Any:
    """The model with an adapter, guided on two levels.

    Args:
        model: the base, unguided, which also draws without a condition.
        adapter: of a style, without a token.
        style: λ_A, above 0.
        content: λ_B.

    Raises:
        InputError: for a λ_A of 0, or a λ that is not finite.
    """
    if not (style > 0.0 and math.isfinite(style + content)):
        raise InputError(f"the two levels are finite, and that of the style is above 0: got {style} and {content}")
    mine = apply(model, adapter)
    if isinstance(mine, NetDenoiser) and isinstance(
        model, NetDenoiser
    ):  # B(∅) + w·(B(c) − B(∅)) with w = 1 − λ_B/λ_A is the worse one
        return auto(mine, cfg(model, 1.0 - content / style), 1.0 + style)
    other: Any = copy.copy(mine)
    other.net = StyledNet(mine.net, model.net, style, content)
    other.how = replace(other.how, scale=1.0)
    return other


def two_levels(mine: Tensor, base: Tensor, null: Tensor, style: float, content: float) -> Tensor:
    """``A(c) + λ_A·(A(c) − B(c)) + λ_B·(B(c) − B(∅))``."""
    return mine + style * (mine - base) + content * (base - null)


class StyledNet(nn.Module):
    """The two levels on a network of tokens: ``(what it is shown, what it is told) -> logits``."""

    def __init__(self, mine: nn.Module, base: Any, style: float, content: float) -> None:
        super().__init__()
        self.mine, self.base, self.style, self.content = mine, base, style, content

    def __getattr__(self, name: str) -> Any:
        """What else is asked of it, the network of the adapter says."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("mine"), name)

    def forward(self, shown: Tensor, cond: Cond) -> Tensor:
        base, free = self.base(torch.cat([shown, shown]), cond.cat(cond.null())).chunk(2)
        return two_levels(self.mine(shown, cond), base, free, self.style, self.content)


def again(
    model: Model,
    adapter: Adapter,
    images: Tensor,
    contents: Sequence[int],
    score: Callable[[Tensor, Tensor], Tensor],
    *,
    like: int,
    each: int = 16,
    keep: int = 4,
    seed: int = 0,
    **how: Any,
) -> Adapter:
    """The second round: an adapter of the pictures and of those of the first round that a score chose, each under what it shows.

    Args:
        model: the base, of classes.
        adapter: of the first round.
        images: (N, C, H, W) in [−1, 1], of the style.
        contents: classes to draw.
        score: (pictures (B, C, H, W), their classes (B,)) -> how well each shows its class in the style, (B,): a measure, or a person.
        like: the class that the given pictures show.
        each: pictures drawn of a class, of which ``keep`` are learned.
        seed: of drawing and of training.
        how: as of :func:`reverie.adapt.fit`.
    """
    styling, labels = styled(model, adapter), torch.tensor(contents)
    labels = labels.repeat_interleave(each)
    drawn = draw(styling, [seed + i for i in range(len(labels))], Cond(label=labels)).clamp(-1.0, 1.0)  # pyright: ignore[reportArgumentType]
    best = score(drawn, labels).reshape(len(contents), each).topk(keep, 1).indices
    rows = (best + each * torch.arange(len(contents))[:, None]).flatten()
    shown = torch.cat([torch.full((len(images),), like), labels[rows]])
    return fit(
        model,
        torch.cat([images, drawn[rows]]),
        adapter.method,
        seed=seed,
        cond=Cond(label=shown),
        like=str(like),
        **how,
    )
