"""pix2pix-zero (Parmar et al. 2023, "Zero-shot image-to-image translation"): a direction between texts, cross-attention kept by descent.

The edit's text is the picture's own moved along the mean difference of many sentences with the one word and the other. Before each move the
edit's state takes one gradient step towards the cross-attention maps of the source: the layout is asked for and not given.
"""

from math import inf

import torch
from torch import Tensor

from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser
from reverie.core.errors import InputError
from reverie.core.schedules import Point
from reverie.edit.branches import EDIT, SOURCE, Branched, attentions, changed_attention, joined, partner
from reverie.edit.inversion.record import Inversion
from reverie.edit.replay import replay
from reverie.guide.gradient import need_gradients
from reverie.nets import taps


def text_direction(source: Cond, target: Cond) -> Tensor:
    """The mean of the texts of ``target`` less that of ``source``, (1, L, D); the paper has a thousand sentences of each.

    Raises:
        InputError: for conditions without texts, or of different lengths.
    """
    if "text" not in source or "text" not in target:
        raise InputError(f"a direction lies between texts: got conditions {list(source)} and {list(target)}")
    a, b = source["text"].value, target["text"].value
    if a.shape[1:] != b.shape[1:]:
        raise InputError(f"texts of a direction have one length: got {tuple(a.shape[1:])} and {tuple(b.shape[1:])}")
    return b.mean(0, keepdim=True) - a.mean(0, keepdim=True)


def moved(cond: Cond, direction: Tensor) -> Cond:
    """The condition with its text moved along a direction."""
    entries = {name: cond[name] for name in cond}
    text = entries["text"]
    return Cond(**{**entries, "text": text._replace(value=text.value + direction.to(text.value))})


class Watcher:
    """Sums the squared distances of the edit's cross-attention maps to the source's, (n,), over the sites of one evaluation."""

    def __init__(self) -> None:
        self.distance: Tensor | None = None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, at: taps.AttentionAt) -> Tensor:
        if at.cross or at.streams:
            n = at.streams[0] if at.streams else 0
            maps = at.split(at.probabilities(q, k)[:, :, : n or None, n:])
            for name in maps:
                if (source := partner(name)) is not None and not name.endswith("/null"):
                    d = (maps[name] - maps[source].detach()).square().flatten(1).sum(1)
                    self.distance = d if self.distance is None else self.distance + d
        return at.attend(q, k, v)


def nearer(denoise: Denoiser, point: Point, source: Tensor, edit: Tensor, both: Cond, rate: float) -> Tensor:
    """The edit's state (n, …) after a gradient step towards the source's cross-attention maps; ``both`` are the conditions of the two.

    Raises:
        InputError: for a network that attends to no text.
    """
    with torch.enable_grad():
        x, watcher = edit.detach().requires_grad_(), Watcher()
        watched = Branched(changed_attention(denoise, attentions(denoise), watcher), (SOURCE, EDIT))
        watched(torch.cat([source.detach(), x]), point, both)
        if watcher.distance is None:
            raise InputError("pix2pix_zero keeps the attention to words, and this network has no cross-attention")
        (gradient,) = torch.autograd.grad(watcher.distance.sum(), x)
    return edit - rate * (point.alpha**2 + point.sigma**2) * gradient


def pix2pix_zero(
    denoise: Denoiser,
    code: Inversion,
    cond: Cond,
    *,
    rate: float = 0.1,
    until: float = inf,
    scale: float | None = None,
    skip: int = 0,
) -> Tensor:
    """Edit towards a text, with the layout kept by descent on the distance of cross-attention maps.

    Args:
        denoise: the model, unguided or guided; its network attends to a text.
        code: an inversion of the pictures under their own text.
        cond: the edit's text, such as ``moved(code.cond, text_direction(cats, dogs))``.
        rate: of the gradient step, for states of a variance-preserving path.
        until: logsnr up to which steps are taken.
        scale: of guidance, by default the one that the inversion was made for.
        skip: moves from noise to leave out.

    Returns:
        (n, C, H, W).

    Raises:
        InputError: with gradients off, for an inversion that does not fit, or a network that attends to no text.
    """
    need_gradients("pix2pix_zero")
    code.check(denoise)
    rest, source = code.at(skip), code.cond
    if source is None or "text" not in denoise.conditions:
        raise InputError(
            "pix2pix_zero keeps the attention to words: it needs a network with cross-attention, and the pictures' own text"
        )
    conds = {SOURCE: source, EDIT: cond}
    both = joined(conds, len(code))
    assert both is not None

    def between(i: int, source: Tensor, edit: Tensor) -> Tensor:
        point = rest.points[i]
        if i + 1 == len(rest.points) or 2.0 * point.lam > until:
            return edit
        return nearer(denoise, point, source, edit, both, rate)

    with torch.no_grad():
        return replay(code.guided(denoise, scale), rest, conds, between=between)[EDIT]
