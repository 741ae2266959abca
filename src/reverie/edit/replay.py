"""Decode an inversion: back to its pictures, or on to others under another condition, in one branch or in several."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser
from reverie.core.errors import InputError
from reverie.core.noise import Span
from reverie.core.progress import track
from reverie.edit.branches import EDIT, SOURCE, Between, Branched, joined
from reverie.edit.inversion.record import Inversion
from reverie.solve import ending
from reverie.solve.iterating import Step, iterate
from reverie.solve.plan import plain


class Recorded:
    """A noise tape that plays stored noises, (moves, n, …), to ``copies`` branches alike."""

    def __init__(self, noises: Tensor, copies: int) -> None:
        self.noises, self.copies = noises, copies

    def draw(self, stream: str, number: int, shape: Sequence[int], span: Span | None = None) -> Tensor:
        z = self.noises[number]
        return z.repeat(self.copies, *(1,) * (z.ndim - 1))


def replay(
    denoise: Denoiser,
    code: Inversion,
    conds: Mapping[str, Cond | None],
    follow: bool = False,
    between: Between | None = None,
    start: Tensor | None = None,
) -> dict[str, Tensor]:
    """Decode an inversion in several branches, all from the same noise.

    Args:
        denoise: guided as the edit wants it, see :meth:`Inversion.guided`.
        code: the inversion.
        conds: the condition of each branch.
        follow: put the branch "source" on the stored states after each move (Ju et al. 2024), so that it is the picture whatever the
            guidance; a multistep solver loses its history.
        between: what the edit's state becomes after each move.
        start: the edit's first state, (n, …), in place of the inversion's.

    Returns:
        Pictures (n, C, H, W) by branch.

    Raises:
        InputError: for changes of the state midway in an inversion of two tracks.
        RunError: when they are not finite.
    """
    if code.second is not None and (follow or between is not None):
        raise InputError(
            f"an inversion by {code.method} has two states that belong together, and this edit changes the state on the way: "
            "invert with another method, such as ode or edit_friendly"
        )
    names, n, k = list(conds), len(code), len(conds)
    first = dict.fromkeys(names, code.code) | ({} if start is None else {EDIT: start})
    x = torch.cat([first[name] for name in names]).to(denoise.device)
    cond = joined({name: None if told is None else told.to(denoise.device) for name, told in conds.items()}, n)
    solver = code.solver if code.second is None else replace(code.solver, second=_tiled(code.second[0], k).to(x))  # pyright: ignore
    tape = None if code.noises is None else Recorded(code.noises, k)
    walk, branched = plain(code.points), Branched(denoise, names)
    step: Step | None = None
    steps = iterate(branched, k * n, _nulled(cond, code, 0, k), solver, x=x, walk=walk, tape=tape)
    for step in track(steps, "editing", len(walk), "moves"):
        i = step.index + 1
        if i < len(walk):
            step.cond = _nulled(cond, code, i, k)
        if not follow and between is None:
            continue
        parts = dict(zip(names, step.x.chunk(k), strict=True))
        if follow:
            parts[SOURCE] = code.trajectory[i].to(step.x)
        if between is not None:
            parts[EDIT] = between(i, parts[SOURCE], parts[EDIT])
        step.x = torch.cat([parts[name] for name in names])
    assert step is not None
    ending.check_finite(branched, step.x, code.trajectory, list)
    images = denoise.space.decode(step.x / step.to.alpha)
    return dict(zip(names, images.chunk(k), strict=True))


def reconstruct(
    denoise: Denoiser, code: Inversion, cond: Cond | None = None, scale: float | None = None, skip: int = 0
) -> Tensor:
    """The pictures of an inversion (n, C, H, W), as its method comes back to them; with ``cond`` the plainest edit, to that condition.

    Args:
        denoise: the model, guided or not.
        code: of the model.
        cond: one for all, or one a picture; those of the pictures by default.
        scale: of classifier-free guidance, by default the one that the inversion was made for.
        skip: moves from noise to leave out: more of them keep more of the picture.

    Raises:
        InputError: for an inversion that does not fit the model, the scale or the skip.
    """
    code.check(denoise)
    return replay(code.guided(denoise, scale), code.at(skip), {EDIT: code.cond if cond is None else cond})[EDIT]


def _tiled(x: Tensor, k: int) -> Tensor:
    return x.repeat(k, *(1,) * (x.ndim - 1))


def _nulled(cond: Cond | None, code: Inversion, i: int, k: int) -> Cond | None:
    """The condition with the nulls of move i."""
    if cond is None or not code.nulls:
        return cond
    return cond.with_null(**{name: _tiled(value[i], k) for name, value in code.nulls.items() if name in cond})
