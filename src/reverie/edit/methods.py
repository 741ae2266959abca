"""Editing by any of the methods, each at its usual settings: what the command line calls."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from reverie.core.condition import Cond
from reverie.core.count import Count
from reverie.core.denoiser import Denoiser, counted
from reverie.core.errors import InputError, unknown
from reverie.core.noise import Seeds
from reverie.core.tensors import finite
from reverie.edit import inversion
from reverie.edit.dds import dds
from reverie.edit.imagic import imagic
from reverie.edit.instruct import instruct
from reverie.edit.inversion.record import Inversion
from reverie.edit.masactrl import masactrl
from reverie.edit.masked import masked, paste
from reverie.edit.pix2pix_zero import pix2pix_zero
from reverie.edit.plug_and_play import plug_and_play
from reverie.edit.prompt_to_prompt import prompt_to_prompt
from reverie.edit.replay import reconstruct
from reverie.edit.sdedit import sdedit
from reverie.edit.words import Alignment

INVERTED = {
    "masactrl": "ode",
    "p2p": "negative_prompt",
    "pix2pix_zero": "regularised",
    "plug_and_play": "ode",
    **{name: name for name in inversion.METHODS},
}
"""The methods that edit an inversion, and by which one."""
SKIPPED = {"edit_friendly": 0.36, "edict": 0.2}
"""The part of the moves that is left out, in their papers."""
USUAL = "edict"
"""What edits where nobody says how: on digits it becomes the class and keeps the rest (the figure of the docs)."""
METHODS = tuple(sorted([*INVERTED, "dds", "imagic", "instruct", "masked", "sdedit"]))


class Edited(NamedTuple):
    """``images`` (n, C, H, W), and passes through the network a picture, forward and back."""

    images: Tensor
    evaluations: float
    backwards: float


def invert(
    denoise: Denoiser,
    images: Tensor,
    cond: Cond | None = None,
    method: str = USUAL,
    *,
    steps: int = 50,
    scale: float | None = None,
) -> Inversion:
    """Invert pictures by any of :data:`reverie.edit.inversion.METHODS`.

    Args:
        denoise: the model, unguided.
        images: (n, C, H, W) in [−1, 1].
        cond: of the pictures: one for all, or one a picture.
        method: by its name.
        steps: of the solver.
        scale: of guidance, by default that of the recipe of a model from a run, else the method's own.

    Raises:
        InputError: for an unknown method, or as the method says.
    """
    if method not in inversion.METHODS:
        raise unknown("inversion", method, inversion.METHODS)
    if cond is None and method in ("null_text", "negative_prompt"):
        raise InputError(
            f"{method} works on the null beside the pictures' own condition: give that, or use ode or edit_friendly"
        )
    scale = usual(denoise) if scale is None else scale
    own = {} if scale is None else {"scale": scale}
    return inversion.METHODS[method](denoise, images, cond, steps, **own)  # pyright: ignore[reportArgumentType]


def chosen(denoise: Denoiser, code: Inversion | None) -> str:
    """The method that edits where nobody says which."""
    if code is not None:
        return code.method
    return "instruct" if "image" in denoise.conditions else USUAL


def usual(denoise: Denoiser) -> float | None:
    """The guidance scale of the recipe of a model from a run, None without one."""
    return None if denoise.sampling is None else denoise.sampling.scale


def edit(
    denoise: Denoiser,
    images: Tensor | Inversion,
    source: Cond | None = None,
    target: Cond | None = None,
    method: str | None = None,
    *,
    mask: Tensor | None = None,
    alignment: Alignment | None = None,
    steps: int = 50,
    scale: float | None = None,
    start: float = 0.5,
    seed: Seeds = 0,
) -> Edited:
    """Edit pictures from what they are to something else.

    Args:
        denoise: the model, unguided; not inside torch.no_grad().
        images: (n, C, H, W) in [−1, 1], or an inversion of them.
        source: what the pictures are; None without.
        target: what they are to become.
        method: one of :data:`METHODS`; by default that of the inversion, if it is one, instruct for a model that was trained to edit, else
            :data:`USUAL`.
        mask: true or 1 where the picture may change; outside of it the pixels stay, bit for bit.
        alignment: of the words, for p2p.
        steps: of the solver.
        scale: of guidance, by default that of the recipe of a model from a run, else the method's own.
        start: time that sdedit and masked noise to, where there is no mask around it.
        seed: of the noise.

    Raises:
        InputError: for an unknown method, or as the method says.
    """
    code = images if isinstance(images, Inversion) else None
    method = chosen(denoise, code) if method is None else method
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    if method == "masked" and mask is None:
        raise InputError("masked edits inside a mask: give one, white where the picture may change")
    given = code.images if code is not None else images
    assert isinstance(given, Tensor)
    if not finite(given):
        raise InputError("the picture holds numbers that are not finite")
    cost, scale = Count(), usual(denoise) if scale is None and code is None else scale
    denoise, given = counted(denoise, cost), given.to(denoise.device)
    if method in INVERTED:
        if code is None:
            code = invert(denoise, given, source, INVERTED[method], steps=steps, scale=scale)
        edited = _inverted(denoise, code, target, method, alignment, scale)
    elif code is not None:
        raise InputError(f"{method} starts from the picture itself: give that in place of its inversion")
    elif method == "dds":
        if source is None or target is None:
            raise InputError("dds goes from one condition to another: give both")
        edited = dds(denoise, given, source, target, 4 * steps, scale=7.5 if scale is None else scale, seed=seed)
    elif method == "instruct":
        if target is None:
            raise InputError("instruct edits by an instruction: say what to do with the picture")
        edited = instruct(denoise, given, target, steps=steps, scale=7.5 if scale is None else scale, seed=seed)
    elif method == "imagic":
        if target is None:
            raise InputError("imagic edits towards a condition: say what the picture is to become")
        how = {"optimise": 4 * steps, "tune": 6 * steps, "scale": 1.0 if scale is None else scale, "seed": seed}
        towards = target.expand(len(given))
        each = [imagic(denoise, given[i : i + 1], towards.index([i]), **how) for i in range(len(given))]  # pyright: ignore[reportArgumentType]
        edited = torch.cat(each)
    else:
        scale = 1.0 if target is None else 3.0 if scale is None else scale
        how = {"steps": steps, "scale": scale, "seed": seed}
        if method == "sdedit":
            edited = sdedit(denoise, given, target, start, **how)  # pyright: ignore[reportArgumentType]
        else:
            assert mask is not None
            edited = masked(denoise, given, mask, target, **how)  # pyright: ignore[reportArgumentType]
    if mask is not None:
        edited = paste(edited, given, mask)
    return Edited(edited, cost.evaluations / len(given), cost.backwards / len(given))


def _inverted(
    denoise: Denoiser,
    code: Inversion,
    target: Cond | None,
    method: str,
    alignment: Alignment | None,
    scale: float | None,
) -> Tensor:
    """The edit of an inversion."""
    if method in inversion.METHODS:
        if code.method != method:
            raise InputError(f"this inversion does not fit the edit: it is by {code.method}, the edit by {method}")
        skip = int(SKIPPED.get(method, 0.0) * (len(code.points) - 1))
        return reconstruct(denoise, code, target, scale, skip)
    if target is None:
        raise InputError(f"{method} edits towards a condition: say what the picture is to become")
    if method == "p2p":
        return prompt_to_prompt(denoise, code, target, alignment, scale=scale)
    function: Callable[..., Tensor] = {
        "masactrl": masactrl,
        "plug_and_play": plug_and_play,
        "pix2pix_zero": pix2pix_zero,
    }[method]
    return function(denoise, code, target, scale=scale)
