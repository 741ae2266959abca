"""Plug-and-Play (Tumanyan et al. 2023, "Plug-and-play diffusion features for text-driven image-to-image translation").

What a network's decoder computes on the way holds where things are, more than what they look like. The edit is drawn beside the source,
which runs along its stored inversion, and is given the source's features at one block and the queries and keys of its self-attention;
values and the condition stay its own.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser
from reverie.edit.branches import CONTENT, EDIT, attentions, changed_attention, from_source, late, noise_level, pair
from reverie.edit.inversion.record import Inversion
from reverie.edit.replay import replay
from reverie.nets import taps

HALFWAY = -0.96
"""Half of the steps on Stable Diffusion's table, in logsnr."""


@torch.no_grad()
def plug_and_play(
    denoise: Denoiser,
    code: Inversion,
    cond: Cond,
    *,
    features: Sequence[str] | None = None,
    attention: Sequence[str] | None = None,
    until: float = CONTENT,
    attention_until: float = HALFWAY,
    scale: float | None = None,
    skip: int = 0,
) -> Tensor:
    """Edit by the source's features.

    Args:
        denoise: the model, unguided or guided; its network has attention.
        code: an inversion of the pictures.
        cond: the edit's condition: one for all, or one a picture.
        features: sites whose values are the source's; by default the second block on the way up of a U-Net (the paper's fourth of twelve),
            and none of a transformer.
        attention: sites whose queries and keys are; by default those on the way up, or of the later half.
        until: logsnr up to which features are given; .8 of the steps of Stable Diffusion.
        attention_until: logsnr up to which queries and keys are; half of the steps.
        scale: of guidance, by default the one that the inversion was made for.
        skip: moves from noise to leave out.

    Returns:
        (n, C, H, W).

    Raises:
        InputError: for an inversion that does not fit, an unknown site, or a network without attention.
    """
    code.check(denoise)
    attention = late(attentions(denoise)) if attention is None else attention
    if features is None:
        features = [site for site in taps.sites(denoise) if site == "up.0.1"]

    def feature(value: Tensor, at: taps.At) -> Tensor:
        return from_source(value, at) if noise_level(at) < until else value

    def attend(q: Tensor, k: Tensor, v: Tensor, at: taps.AttentionAt) -> Tensor:
        if at.cross or noise_level(at) >= attention_until:
            return at.attend(q, k, v)
        n = at.streams[0] if at.streams else q.shape[2]  # of joint attention only the picture's
        q, k = (torch.cat([from_source(x[:, :, :n], at), x[:, :, n:]], 2) for x in (q, k))
        return at.attend(q, k, v)

    changed = taps.replace(changed_attention(denoise, attention, attend), dict.fromkeys(features, feature))
    conds = pair(code.cond, cond)
    return replay(code.guided(changed, scale), code.at(skip), conds, follow=code.second is None)[EDIT]
