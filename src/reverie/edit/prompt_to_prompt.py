"""Prompt-to-Prompt (Hertz et al. 2023, "Prompt-to-prompt image editing with cross attention control").

Which place attends to which word decides the layout. Source and edit are drawn side by side from the same noise; while the noise is high
the edit is given the source's cross-attention maps, word by word (replace, refine), a word's map made stronger if asked (reweight), and the
source's self-attention maps on small grids. A local blend keeps the source's state outside of where the edited words attend.
"""

from collections.abc import Mapping
from math import inf
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d

from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser
from reverie.core.errors import InputError
from reverie.edit.branches import (
    CONTENT,
    EDIT,
    LAYOUT,
    SOURCE,
    attentions,
    changed_attention,
    noise_level,
    partner,
)
from reverie.edit.inversion.record import Inversion
from reverie.edit.replay import replay
from reverie.edit.words import Alignment, same
from reverie.guide.attention import as_grid
from reverie.nets import taps


class LocalBlend(NamedTuple):
    """Keep the source outside of where words attend, once the noise is low enough.

    Args:
        source: positions of the words' tokens in the source's prompt.
        edit: and in the edit's.
        threshold: of the maps' mean, as a share of its largest.
        start: logsnr from which on states are blended.
    """

    source: tuple[int, ...]
    edit: tuple[int, ...]
    threshold: float = 0.3
    start: float = -3.3


class Control:
    """What takes the place of the attention products of one edit.

    Attributes:
        crossed: whether attention to a text was seen.
        seen: by site and branch, the maps (n, 1, h, w) of the blended words, summed over evaluations.
    """

    def __init__(
        self,
        alignment: Alignment,
        weights: Tensor | None,
        cross: float,
        own: float,
        largest: int,
        blend: LocalBlend | None,
        shape: tuple[int, ...],
    ) -> None:
        self.alignment, self.weights, self.cross, self.own = alignment, weights, cross, own
        self.largest, self.blend, self.shape = largest, blend, shape
        self.crossed, self.seen = False, dict[tuple[str, str], Tensor]()

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, at: taps.AttentionAt) -> Tensor:
        reads = at.cross or bool(at.streams)
        places = at.streams[0] if at.streams else q.shape[2]
        self.crossed = self.crossed or reads
        level = noise_level(at)
        cross = reads and level < self.cross
        own = not at.cross and level < self.own and places <= self.largest
        look = self.blend is not None and reads and places <= self.largest
        if not (cross or own or look):
            return at.attend(q, k, v)
        maps = at.split(at.probabilities(q, k))
        for name in maps:
            if look:
                self._look(name, maps[name], at, places)
            if (source := partner(name)) is not None and not name.endswith("/null"):
                maps[name] = self.given(maps[source], maps[name], at, cross, own)
        return at.join(maps) @ v

    def given(self, source: Tensor, edit: Tensor, at: taps.AttentionAt, cross: bool, own: bool) -> Tensor:
        """The maps (n, heads, N, M) that the edit is given."""
        if at.cross:
            return self._words(source, edit) if cross else edit
        if not at.streams:
            return source if own else edit
        n, edit = at.streams[0], edit.clone()  # places attend to places and to words at once
        if cross:
            edit[:, :, :n, n:] = self._words(source[:, :, :n, n:], edit[:, :, :n, n:])
        if own:
            edit[:, :, :n, :n] = source[:, :, :n, :n]
        return edit

    def _words(self, source: Tensor, edit: Tensor) -> Tensor:
        if (s := self.alignment.mapper.shape) != (source.shape[-1], edit.shape[-1]):
            raise InputError(
                f"the alignment is of {s[0]} and {s[1]} tokens, the network attends to {source.shape[-1]}: "
                "give align the conditions' length"
            )
        maps = self.alignment.maps(source, edit)
        return maps if self.weights is None else maps * self.weights.to(maps)

    def _look(self, name: str, maps: Tensor, at: taps.AttentionAt, places: int) -> None:
        assert self.blend is not None
        branch, _, guided = name.partition("/")
        if guided == "null":
            return
        tokens = [i + sum(at.streams[:1]) for i in (self.blend.source if branch == SOURCE else self.blend.edit)]
        seen = as_grid(maps[:, :, :places, tokens].mean(1).sum(-1, keepdim=True), self.shape)
        self.seen[at.site, branch] = self.seen.get((at.site, branch), 0.0) + seen

    def mask(self, like: Tensor) -> Tensor:
        """Where either branch's words attend, (n, 1, H, W) of zeros and ones."""
        assert self.blend is not None
        size, masks = like.shape[-2:], []
        for branch in (SOURCE, EDIT):
            maps = [interpolate(a, size, mode="bilinear") for (_, own), a in self.seen.items() if own == branch]
            a = max_pool2d(torch.stack(maps).mean(0), 3, 1, 1)
            masks.append(a / a.amax((2, 3), keepdim=True) > self.blend.threshold)
        return (masks[0] | masks[1]).to(like)


@torch.no_grad()
def prompt_to_prompt(
    denoise: Denoiser,
    code: Inversion,
    cond: Cond,
    alignment: Alignment | None = None,
    *,
    weights: Mapping[int, float] | None = None,
    cross: float = CONTENT,
    own: float = LAYOUT,
    largest: int = 16**2,
    blend: LocalBlend | None = None,
    scale: float | None = None,
    skip: int = 0,
    follow: bool = False,
) -> Tensor:
    """Edit by the source's attention maps.

    Args:
        denoise: the model, unguided or guided; its network attends to a text.
        code: an inversion of the pictures under their own text; null-text in the paper.
        cond: the edit's text: one for all, or one a picture.
        alignment: which token takes the map of which: :func:`~reverie.edit.words.align`; each that of its own place by default.
        weights: by token of the edit, what its map is multiplied with.
        cross: logsnr up to which cross-attention maps are given; the default is .8 of the steps of Stable Diffusion.
        own: logsnr up to which self-attention maps are given; .4 of the steps.
        largest: places of a grid whose self-attention maps are given, and whose maps are looked at for ``blend``.
        blend: keep the source's state outside of where words attend.
        scale: of guidance, by default the one that the inversion was made for.
        skip: moves from noise to leave out.
        follow: put the source on the stored states after each move.

    Returns:
        (n, C, H, W).

    Raises:
        InputError: for an inversion that does not fit, an alignment of another number of tokens, or a network that attends to no text.
    """
    code.check(denoise)
    source = code.cond
    if source is None or "text" not in denoise.conditions:
        raise _no_text(denoise)
    length = max(c["text"].value.shape[1] for c in (source, cond) if "text" in c)
    alignment = same(length) if alignment is None else alignment
    control = Control(alignment, _multipliers(weights, alignment), cross, own, largest, blend, denoise.shape)
    changed = changed_attention(denoise, attentions(denoise), control)
    points = code.at(skip).points

    def between(i: int, source: Tensor, edit: Tensor) -> Tensor:
        if blend is None or 2.0 * points[i].lam < blend.start or not control.seen:
            return edit
        return source + control.mask(edit) * (edit - source)

    conds = {SOURCE: source, EDIT: cond}
    guided = code.guided(changed, scale)
    edited = replay(guided, code.at(skip), conds, follow, None if blend is None else between)[EDIT]
    if not control.crossed:
        raise _no_text(denoise)
    return edited


def _multipliers(weights: Mapping[int, float] | None, alignment: Alignment) -> Tensor | None:
    if weights is None:
        return None
    values = torch.ones(alignment.mapper.shape[1])
    for token, weight in weights.items():
        if not 0 <= token < len(values) or not -inf < weight < inf:
            raise InputError(f"weights are finite, by token 0 to {len(values) - 1}: got {token}: {weight}")
        values[token] = weight
    return values


def _no_text(denoise: Denoiser) -> InputError:
    taken = ", ".join(f"{name} ({spec})" for name, spec in denoise.conditions.items()) or "nothing"
    return InputError(
        f"prompt_to_prompt works on attention to the words of a text, and this network has no cross-attention: it is told {taken}. "
        "Use a method that needs none, such as edit_friendly, edict or plug_and_play"
    )
