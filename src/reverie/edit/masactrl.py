"""MasaCtrl (Cao et al. 2023, "MasaCtrl: tuning-free mutual self-attention control").

The edit's queries look up keys and values of the *source's* self-attention: what things look like is the source's, where they are is the
edit's own. It begins after the layout has formed, in the decoder. With masks the object is looked up in the object, the rest in the rest.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser
from reverie.core.errors import InputError
from reverie.edit.branches import (
    EDIT,
    START,
    attentions,
    changed_attention,
    from_source,
    late,
    noise_level,
    pair,
    partner,
)
from reverie.edit.inversion.record import Inversion
from reverie.edit.replay import replay
from reverie.guide.attention import as_grid
from reverie.guide.pixels import as_mask, mask_of
from reverie.nets import taps

Masks = tuple[Tensor, Tensor]
"""Where the object is in the source and where it is to be in the edit, 1 there: (H, W) or (n or 1, 1, H, W)."""


class Mutual:
    """What takes the place of the attention products: the edit's queries on the source's keys and values, from a noise level on."""

    def __init__(self, start: float, masks: Masks | None, shape: tuple[int, ...]) -> None:
        self.start, self.masks, self.shape = start, masks, shape

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, at: taps.AttentionAt) -> Tensor:
        if at.cross or noise_level(at) < self.start:
            return at.attend(q, k, v)
        n = at.streams[0] if at.streams else q.shape[2]  # of joint attention only the picture's
        k, v = (torch.cat([from_source(x[:, :, :n], at), x[:, :, n:]], 2) for x in (k, v))
        return at.attend(q, k, v) if self.masks is None else self._apart(q, k, v, at, n)

    def _apart(self, q: Tensor, k: Tensor, v: Tensor, at: taps.AttentionAt, n: int) -> Tensor:
        """The object's places attend to the source's object, the others to the rest."""
        assert self.masks is not None
        maps = at.split(at.probabilities(q, k))
        for name in maps:
            if partner(name) is None:
                continue
            there, here = (self._tokens(mask, n, maps[name]) for mask in self.masks)
            allowed = torch.where(here[:, :, :, None], there[:, :, None], ~there[:, :, None])
            own = maps[name].clone()
            own[:, :, :n, :n] *= allowed
            maps[name] = own / own.sum(-1, keepdim=True)
        return at.join(maps) @ v

    def _tokens(self, mask: Tensor, n: int, like: Tensor) -> Tensor:
        """A mask as bools at the n places of a grid, (1 or B, 1, n)."""
        h, w = as_grid(like.new_zeros(1, n, 1), self.shape).shape[2:]
        return adaptive_avg_pool2d(mask.to(like), (h, w)).flatten(2) > 0.5


@torch.no_grad()
def masactrl(
    denoise: Denoiser,
    code: Inversion,
    cond: Cond | None,
    *,
    sites: Sequence[str] | None = None,
    start: float = START,
    masks: Masks | None = None,
    scale: float | None = None,
    skip: int = 0,
    begin: Tensor | None = None,
) -> Tensor:
    """Edit by looking the source up.

    Args:
        denoise: the model, unguided or guided; its network has attention.
        code: an inversion of the pictures.
        cond: the edit's condition: one for all, or one a picture.
        sites: of the self-attentions; by default those on the way up, or of the later half.
        start: logsnr from which on the source is looked up: by default from the fourth of fifty steps of Stable Diffusion.
        masks: of the object, in the source and in the edit.
        scale: of guidance, by default the one that the inversion was made for.
        skip: moves from noise to leave out.
        begin: the edit's first state, in place of the inversion's.

    Returns:
        (n, C, H, W).

    Raises:
        InputError: for an inversion that does not fit, an unknown site, a network without attention, or a mask that is empty or full.
    """
    code.check(denoise)
    if masks is not None:
        masks = tuple(mask_of(code.images[:, :1], as_mask(mask)) for mask in masks)  # pyright: ignore[reportAssignmentType]
        if any(bool((mask.flatten(1).amin(1) == mask.flatten(1).amax(1)).any()) for mask in masks or ()):
            raise InputError("a mask of the object leaves something in and something out: one of them is empty or full")
    control = Mutual(start, masks, denoise.shape)
    changed = changed_attention(denoise, late(attentions(denoise)) if sites is None else sites, control)
    conds = pair(code.cond, cond)
    guided = code.guided(changed, scale)
    return replay(guided, code.at(skip), conds, follow=code.second is None, start=begin)[EDIT]
