"""A source and its edit, drawn side by side: branches of one batch, each with its own state and condition.

Attention editing lets the edit's branch see the source's. A run of both is a run of one batch, branch-major, so that every solver, grid,
guide and tap serves it: what reads or changes the network is told the names of the branches (:mod:`reverie.core.call`), under guidance
``source/null``, ``edit/null``, ``source/cond``, ``edit/cond``.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce

from torch import Tensor

from reverie.core.call import Call
from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser, Wrapper
from reverie.core.errors import InputError
from reverie.core.estimate import Estimate
from reverie.core.schedules import Point
from reverie.core.tensors import Scalar
from reverie.nets import taps

SOURCE, EDIT = "source", "edit"

CONTENT, LAYOUT, START = 1.12, -1.65, -4.46
"""Noise levels, in logsnr, at which the steps 80 %, 40 % and 8 % of the way from noise lie on Stable Diffusion's table: the papers of
attention editing count steps on it."""


class Branched(Wrapper):
    """A denoiser whose batch holds named branches, branch-major."""

    def __init__(self, base: Denoiser, names: Sequence[str]) -> None:
        super().__init__(base)
        self.names = tuple(names)

    @property
    def together(self) -> bool:
        return True

    def __call__(self, x: Tensor, t: Point | Scalar, cond: Cond | None = None, call: Call | None = None) -> Estimate:
        return self.base(x, t, cond, (call or Call()).within(self.names))


def joined(conds: Mapping[str, Cond | None], n: int) -> Cond | None:
    """The conditions of branches of ``n`` samples, one after the other.

    Raises:
        InputError: when one branch has a condition that another lacks.
    """
    each = list(conds.values())
    if all(cond is None for cond in each):
        return None
    if any(cond is None for cond in each):
        raise InputError(f"either every branch has a condition or none has: got {dict(conds)}; cond.null() is none")
    return reduce(Cond.cat, (cond.expand(n) for cond in each if cond is not None))


def pair(source: Cond | None, edit: Cond | None) -> dict[str, Cond | None]:
    """The conditions of both branches; a source without one is under the null."""
    return {SOURCE: edit.null() if source is None and edit is not None else source, EDIT: edit}


def partner(name: str) -> str | None:
    """The source's branch that an edit's branch looks at, None for a branch that is not the edit's."""
    first, slash, rest = name.partition("/")
    return f"{SOURCE}{slash}{rest}" if first == EDIT else None


def from_source(value: Tensor, at: taps.At) -> Tensor:
    """The value with the source's rows in the place of the edit's."""
    parts = at.split(value)
    return at.join({name: parts[partner(name) or name] for name in parts})


def noise_level(at: taps.At) -> float:
    """Where a tap acts, in logsnr."""
    assert at.point is not None
    return 2.0 * float(at.point.lam)


def attentions(denoise: Denoiser) -> list[str]:
    """The sites of all attentions, in the order they are built.

    Raises:
        InputError: for a network without any.
    """
    found = [site for site, place in taps.find(denoise, taps.sites(denoise)).items() if place.attention]
    if not found:
        raise InputError(
            "this edit works inside of attention, and the network has none: use a U-Net with attention or a transformer, or a method that "
            "needs none, such as edit_friendly, edict or sdedit"
        )
    return found


def late(sites: Sequence[str]) -> list[str]:
    """The later half: of a U-Net those on the way up, where what a place looks like is decided."""
    return [site for site in sites if site.startswith(("up", "foreign.up"))] or list(sites[len(sites) // 2 :])


def changed_attention(denoise: Denoiser, sites: Iterable[str], function: taps.AttentionReplacement) -> Denoiser:
    """The denoiser with one function in the place of the attention products at ``sites``."""
    return taps.attention(denoise, dict.fromkeys(sites, function))


Between = Callable[[int, Tensor, Tensor], Tensor]
"""(index of the node, the source's state, the edit's state) -> the edit's state, after a move."""
