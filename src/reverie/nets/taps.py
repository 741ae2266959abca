"""Taps: read, overwrite and differentiate what passes through a network, at named places, without changing the network.

A site is the dotted path of a block ("blocks.3", "down.1.0", "middle.0"): its output; with ".in" its input; "skip.2" the third skip
connection; "blocks.3.attention" an attention. :func:`sites` lists them, for our networks and for diffusers' modules::

    with taps.record(net, ["blocks.3"]) as read:
        net(x, time, cond)
    read["blocks.3"]

Every tap is removed when its block ends, also by an error. A network without taps has nothing to do for them. Where a network is
compiled, the uncompiled one runs while a tap is open. Of several taps at one site, the one opened first acts first.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.core import branches
from reverie.core.errors import InputError, RunError, nearest
from reverie.nets import places
from reverie.nets.places import Place

if TYPE_CHECKING:
    from reverie.core.denoiser import Denoiser


@dataclass(frozen=True)
class At:
    """Where and on what a tap acts: the site, and the named branches of the batch, in the order of its leading axis (() if none)."""

    site: str
    branches: tuple[str, ...]

    def split(self, value: Tensor) -> dict[str, Tensor]:
        """The rows of each branch."""
        return dict(zip(self.branches, value.chunk(len(self.branches)), strict=True))

    def join(self, parts: Mapping[str, Tensor]) -> Tensor:
        """The opposite of :meth:`split`."""
        return torch.cat([parts[name] for name in self.branches])


@dataclass(frozen=True)
class AttentionAt(At):
    """The same for an attention: what it is about to compute.

    Attributes:
        cross: whether keys and values come from a context.
        streams: lengths of the sequences that joint attention has joined, pictures first; () elsewhere.
    """

    cross: bool
    streams: tuple[int, ...]
    mask: Tensor | None
    scale: float | None
    product: Callable[..., Tensor]

    def probabilities(self, q: Tensor, k: Tensor) -> Tensor:
        """``softmax(q·kᵀ/√d)`` (B, heads, N, M), zero where a key is padding."""
        logits = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if self.scale is None else self.scale)
        if self.mask is not None:
            logits = logits.masked_fill(~self.mask, -torch.inf) if self.mask.dtype == torch.bool else logits + self.mask
        return logits.softmax(-1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """What the network would have done with these: (B, heads, N, d)."""
        return self.product(q, k, v)


Replacement = Tensor | Callable[[Tensor, At], Tensor]
AttentionReplacement = Callable[[Tensor, Tensor, Tensor, AttentionAt], Tensor]


def sites(net: nn.Module | Denoiser) -> list[str]:
    """The names of every place that can be tapped: blocks in the order they are built, each with its input and attentions; then skips.

    Raises:
        InputError: when there is no network inside.
    """
    return list(places.of(_modules(net)[1]))


def active(net: nn.Module | Denoiser) -> bool:
    """Whether a tap is open on the network: a prepared copy of it must not run in its place."""
    return vars(_modules(net)[0]).get("_tapped", 0) > 0


class Record(dict[str, Tensor]):
    """What was read, by site, of the last call: not detached."""

    def __missing__(self, site: str) -> Tensor:
        raise RunError(f"nothing was read at {site!r}: call the network inside the block, and ask for the site there")


class _Stop(BaseException):
    """Ends a call early; ``read`` says whose."""

    def __init__(self, read: Record) -> None:
        self.read = read


@contextmanager
def record(net: nn.Module | Denoiser, sites: Iterable[str], stop: bool = False) -> Iterator[Record]:
    """Read the values at ``sites`` of the calls made inside the block.

    Args:
        net: a network, or a denoiser, guided or not (the network of the model that is guided).
        sites: names out of :func:`sites`.
        stop: leave the network after the last requested site: a call of it returns None, a denoiser's estimate is NaN.

    Yields:
        The values of the last call by site; differentiable.

    Raises:
        InputError: for an unknown site, with the nearest names.
    """
    wanted = _find(net, sites)
    read = Record()
    with _open(net, read) as (stack, running):
        missing: set[str] = set()
        running.begin = lambda: missing.update(wanted)

        def reader(site: str) -> Callable[[Tensor], None]:
            def take(value: Tensor) -> None:
                if not running.inside:  # a checkpointed block runs again in the backward pass
                    return
                read[site] = value
                missing.discard(site)
                if stop and not missing:
                    raise _Stop(read)

            return take

        for site, place in wanted.items():
            stack.enter_context(place.hooked(reader(site)))
        yield read


@contextmanager
def replace(net: nn.Module | Denoiser, values: Mapping[str, Replacement]) -> Iterator[None]:
    """Overwrite or transform the values at sites, in the calls made inside the block.

    Args:
        net: a network or a denoiser.
        values: by site, ``f(value, at) -> value``, or a tensor to put there.

    Raises:
        InputError: for an unknown site, with the nearest names; for a value of another shape than the one it replaces.
    """
    wanted = _find(net, values)
    with _open(net) as (stack, running):

        def changer(site: str, change: Replacement) -> Callable[[Tensor], Tensor]:
            def put(value: Tensor) -> Tensor:
                new = change if isinstance(change, Tensor) else change(value, At(site, running.branches))
                if new.shape != value.shape:
                    raise InputError(f"{site} holds {tuple(value.shape)}: it cannot be replaced by {tuple(new.shape)}")
                return new

            return put

        for site, place in wanted.items():
            stack.enter_context(place.hooked(changer(site, values[site])))
        yield


@contextmanager
def attention(net: nn.Module | Denoiser, replacements: Mapping[str, AttentionReplacement]) -> Iterator[None]:
    """Take the place of attention products, in the calls made inside the block.

    Args:
        net: a network or a denoiser.
        replacements: by site, ``f(q, k, v, at) -> out``; q and out (B, heads, N, d), k and v (B, heads, M, d);
            ``at.probabilities(q, k)`` is the attention map, ``at.attend(q, k, v)`` what the network would have done.

    Raises:
        InputError: for an unknown site, or one that is no attention.
    """
    wanted = _find(net, replacements)
    for site, place in wanted.items():
        if not place.attention:
            known = ", ".join(name for name, p in places.of(_modules(net)[1]).items() if p.attention) or "none"
            raise InputError(f"{site!r} is no attention; the network's are: {known}.")
    with _open(net) as (stack, running):
        for site, place in wanted.items():
            stack.enter_context(_attending(site, place.module, replacements[site], running))
        yield


def read(net: nn.Module | Denoiser, sites: Iterable[str], *arguments: Any) -> dict[str, Tensor]:
    """The values at ``sites`` for one call ``net(*arguments)``, which ends after the last of them.

    Raises:
        InputError: for an unknown site, with the nearest names.
    """
    with record(net, sites, stop=True) as seen:
        net(*arguments)  # pyright: ignore[reportCallIssue]
    return dict(seen)


def _modules(net: Any) -> tuple[nn.Module, nn.Module]:
    """The module that is called, and the one whose places are named: inside of denoisers, compilation, and our wrapper of a foreign one."""
    root = net if isinstance(net, nn.Module) else getattr(net, "net", None)
    if not isinstance(root, nn.Module):
        raise InputError(f"a tap needs a network or a denoiser with one: got {type(net).__name__}")
    root = getattr(root, "_orig_mod", root)
    return root, getattr(root, "foreign", root)


def _find(net: nn.Module | Denoiser, sites: Iterable[str]) -> dict[str, Place]:
    known, wanted = places.of(_modules(net)[1]), list(sites)
    for site in wanted:
        if site not in known:
            some = ", ".join(list(known)[:6])
            raise InputError(f"the network has no site {site!r}; it has {len(known)}: {some}, ….{nearest(site, known)}")
    return {site: known[site] for site in wanted}


class _Running:
    """Whether a call of the network is under way, and the branches of the last one."""

    inside = False
    branches: tuple[str, ...] = ()

    def begin(self) -> None: ...


@contextmanager
def _open(net: nn.Module | Denoiser, read: Record | None = None) -> Iterator[tuple[ExitStack, _Running]]:
    """Make the network ready for taps: calls go through a function that knows when one is under way and may end early, uncompiled."""
    root, _ = _modules(net)
    forward, own = root.forward, root.__dict__.get("forward")
    running = _Running()

    def call(*args: Any, **kwargs: Any) -> Any:
        running.inside, running.branches = True, branches.names()
        running.begin()
        try:
            return forward(*args, **kwargs)
        except _Stop as stop:
            if stop.read is not read:
                raise
            return None
        finally:
            running.inside = False

    root.forward = call
    vars(root)["_tapped"] = vars(root).get("_tapped", 0) + 1
    try:
        compiler = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
        with ExitStack() as stack, compiler, branches.watched():
            yield stack, running
    finally:
        vars(root)["_tapped"] -= 1
        if own is None:
            del root.forward
        else:
            root.forward = own


@contextmanager
def _attending(site: str, module: Any, replacement: AttentionReplacement, running: _Running) -> Iterator[None]:
    """Put a function in the place of one module's attention product."""

    def hook(product: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, **what: Any) -> Tensor:
        return replacement(q, k, v, AttentionAt(site, running.branches, product=product, **what))

    before = module.hook if hasattr(module, "hook") else None
    if hasattr(module, "hook"):

        def ours(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, cross: bool, streams: tuple[int, ...]) -> Tensor:
            def product(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                if before is not None:
                    return before(q, k, v, mask=mask, cross=cross, streams=streams)
                return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

            return hook(product, q, k, v, mask=mask, scale=None, cross=cross, streams=streams)

        module.hook = ours
        try:
            yield
        finally:
            module.hook = before
    else:
        with places.intercepted(module, hook):
            yield
