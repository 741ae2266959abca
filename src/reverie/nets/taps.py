"""Taps: read, overwrite and differentiate what passes through a network, at named places, without changing the network.

A site is the dotted path of a block ("blocks.3", "down.1.0", "middle.0"): its output; with ".in" its input; "skip.2" the third skip
connection; "blocks.3.attention" an attention. :func:`sites` lists them, for our networks and for diffusers' modules. A tapped model is
another model, like a guided one::

    tapped = taps.replace(denoise, {"blocks.2": lambda value, at: 1.2 * value})
    seen = taps.record(tapped, ["blocks.3"])(x, t, cond).features["blocks.3"]

Its calls say what they change (:mod:`reverie.core.call`) and run a copy of the network that shares the weights, so the network itself, and
every other call of it, compiled or not, in whatever thread, is what it was. Of several taps at one site, the inner one acts first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor, nn

from reverie.core.call import Call, Change, Now, per_branch, run
from reverie.core.denoiser import Denoiser, Told, Wrapper
from reverie.core.errors import InputError, nearest
from reverie.core.estimate import Estimate
from reverie.core.predictions import KINDS
from reverie.nets import places
from reverie.nets.attention import Product
from reverie.nets.copies import sharing
from reverie.nets.places import Place

if TYPE_CHECKING:
    from reverie.core.condition import Cond
    from reverie.core.schedules import Point
    from reverie.core.tensors import Scalar


@dataclass(frozen=True)
class At:
    """Where and on what a tap acts.

    Attributes:
        site: its name.
        branches: of the batch, in the order of its leading axis; () if it has none.
        point: on the path; None where a network is called by itself.
        again: whether the block runs a second time, on the way back through a checkpointed one.
    """

    site: str
    branches: tuple[str, ...]
    point: Point | None
    again: bool

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
    product: Product

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


@dataclass(frozen=True)
class Edit:
    """A change of a network: at each site a function of the value and of where it is; None leaves the value as it is."""

    places: Mapping[str, Place]
    functions: Mapping[str, Callable[[Tensor, At], Tensor | None]]

    @property
    def sites(self) -> Collection[str]:
        return self.places

    def __call__(self, net: nn.Module, now: Now) -> nn.Module:
        net = sharing(net, [place.path for place in self.places.values()])
        for site, place in self.places.items():
            place.hook(net, partial(self._act, site, now))
        return net

    def _act(self, site: str, now: Now, value: Tensor) -> Tensor | None:
        now.fired.add(site)
        return self.functions[site](value, At(site, now.branches, now.point, now.over))


@dataclass(frozen=True)
class AttentionEdit:
    """A change of a network: a function in the place of an attention's product."""

    places: Mapping[str, Place]
    functions: Mapping[str, AttentionReplacement]

    @property
    def sites(self) -> Collection[str]:
        return self.places

    def __call__(self, net: nn.Module, now: Now) -> nn.Module:
        net = sharing(net, [place.path for place in self.places.values()])
        for site, place in self.places.items():
            places.attend(net.get_submodule(place.path), partial(self._act, site, now))
        return net

    def _act(self, site: str, now: Now, product: Product, q: Tensor, k: Tensor, v: Tensor, **what: Any) -> Tensor:
        now.fired.add(site)
        at = AttentionAt(site, now.branches, now.point, now.over, product=product, **what)
        return self.functions[site](q, k, v, at)


def sites(model: nn.Module | Denoiser) -> list[str]:
    """The names of every place that can be tapped: blocks in the order they are built, each with its input and attentions; then skips.

    Raises:
        InputError: when there is no network inside.
    """
    return list(places.of(_named(_network(model))))


def find(model: nn.Module | Denoiser, sites: Iterable[str], attention: bool = False) -> dict[str, Place]:
    """The places of ``sites``, their paths from the network that is called.

    Args:
        model: a network or a denoiser.
        sites: names out of :func:`sites`.
        attention: they are to be attentions.

    Raises:
        InputError: for an unknown site, with the nearest names; for one that is no attention.
    """
    net, wanted = _network(model), list(sites)
    named = _named(net)
    known, prefix = places.of(named), next(path for path, module in net.named_modules() if module is named)
    for site in wanted:
        if site not in known:
            some = ", ".join(list(known)[:6])
            raise InputError(f"the network has no site {site!r}; it has {len(known)}: {some}, ….{nearest(site, known)}")
        if attention and not known[site].attention:
            able = ", ".join(name for name, place in known.items() if place.attention) or "none"
            raise InputError(f"{site!r} is no attention; the network's are: {able}.")
    return {site: known[site].under(prefix) for site in wanted}


@overload
def replace(model: Denoiser, values: Mapping[str, Replacement]) -> Denoiser: ...
@overload
def replace(model: nn.Module, values: Mapping[str, Replacement]) -> Callable[..., Any]: ...
def replace(model: nn.Module | Denoiser, values: Mapping[str, Replacement]) -> Callable[..., Any]:
    """The model with the values at sites overwritten or transformed.

    Args:
        model: a denoiser, guided or not (the network of the model that is guided); or a network, and the result is called like it.
        values: by site, ``f(value, at) -> value``, or a tensor to put there, for all branches of a batch.

    Raises:
        InputError: for an unknown site, with the nearest names; (when called) for a value of another shape than the one it replaces.
    """
    return changed(model, Edit(find(model, values), {site: partial(_put, change) for site, change in values.items()}))


@overload
def add(model: Denoiser, residuals: Mapping[str, Tensor]) -> Denoiser: ...
@overload
def add(model: nn.Module, residuals: Mapping[str, Tensor]) -> Callable[..., Any]: ...
def add(model: nn.Module | Denoiser, residuals: Mapping[str, Tensor]) -> Callable[..., Any]:
    """The model with residuals added at sites, as ControlNet adds them (Zhang et al. 2023).

    Args:
        model: a denoiser or a network.
        residuals: by site, of the shape of the value there; one for all samples, one a sample, or one a row of the branches' batch.

    Raises:
        InputError: for an unknown site, with the nearest names; (when called) for a residual of another shape.
    """
    return changed(model, Edit(find(model, residuals), {site: partial(_add, r) for site, r in residuals.items()}))


@overload
def attention(model: Denoiser, replacements: Mapping[str, AttentionReplacement]) -> Denoiser: ...
@overload
def attention(model: nn.Module, replacements: Mapping[str, AttentionReplacement]) -> Callable[..., Any]: ...
def attention(model: nn.Module | Denoiser, replacements: Mapping[str, AttentionReplacement]) -> Callable[..., Any]:
    """The model with attention products replaced.

    Args:
        model: a denoiser or a network.
        replacements: by site, ``f(q, k, v, at) -> out``; q and out (B, heads, N, d), k and v (B, heads, M, d);
            ``at.probabilities(q, k)`` is the attention map, ``at.attend(q, k, v)`` what the model would have done.

    Raises:
        InputError: for an unknown site, or one that is no attention.
    """
    return changed(model, AttentionEdit(find(model, replacements, attention=True), dict(replacements)))


def record(denoise: Denoiser, sites: Iterable[str], stop: bool = False) -> Denoiser:
    """The denoiser whose estimates have the values at ``sites`` as their ``features``, by site and not detached.

    Args:
        denoise: guided or not. Of a guided one the rows are those of all branches, and of several evaluations the last one's.
        sites: names out of :func:`sites`.
        stop: leave the network after the last of them; the estimate is then NaN.

    Raises:
        InputError: for an unknown site, with the nearest names.
    """
    return Recorded(denoise, find(denoise, sites), stop)


def features(
    model: nn.Module | Denoiser, sites: Iterable[str], *arguments: Any, within: Change | None = None
) -> dict[str, Tensor]:
    """The values at ``sites`` for one call ``model(*arguments)``, which ends after the last of them; differentiable.

    Args:
        model: a denoiser or a network.
        sites: names out of :func:`sites`.
        arguments: of the call.
        within: a change of the network that acts before they are read.

    Raises:
        InputError: for an unknown site, with the nearest names.
    """
    reading = _Reading(find(model, sites), stop=True)
    called = (
        changed(model, reading.edit) if within is None else partial(run, _network(model), [within, reading.edit], Now())
    )
    reading.of(partial(called, *arguments))
    return reading.seen


class Recorded(Wrapper):
    """See :func:`record`."""

    def __init__(self, base: Denoiser, places: Mapping[str, Place], stop: bool = False) -> None:
        super().__init__(base)
        self.places, self.stop = places, stop

    def __call__(self, x: Tensor, t: Point | Scalar, cond: Cond | None = None, call: Call | None = None) -> Estimate:
        reading = _Reading(self.places, self.stop)
        estimate = reading.of(lambda: self.base(x, t, cond, (call or Call()).changed(reading.edit)))
        if estimate is None:
            point = self.point(t, x)
            return Estimate(x, torch.full_like(x, torch.nan), KINDS["x0"](point), point, features=reading.seen)
        return estimate.with_features({**(estimate.features or {}), **reading.seen})


class _Stop(BaseException):
    """Ends a call early; ``reading`` says whose."""

    def __init__(self, reading: _Reading) -> None:
        self.reading = reading


class _Reading:
    """What one call reads: ``seen`` by site, through the change ``edit``; with ``stop`` the call ends after the last site."""

    def __init__(self, places: Mapping[str, Place], stop: bool) -> None:
        self.seen: dict[str, Tensor] = {}
        self.stop = stop
        self.edit = Edit(places, dict.fromkeys(places, self.take))

    def take(self, value: Tensor, at: At) -> None:
        if at.again:
            return
        self.seen[at.site] = value
        if self.stop and self.seen.keys() == self.edit.places.keys():
            raise _Stop(self)

    def of(self, call: Callable[[], Any]) -> Any:
        """What ``call()`` gives, None where it ended early."""
        try:
            return call()
        except _Stop as stop:
            if stop.reading is not self:
                raise
            return None


def _put(new: Replacement, value: Tensor, at: At) -> Tensor:
    new = per_branch(new, len(value), Call(at.branches)) if isinstance(new, Tensor) else new(value, at)
    if not isinstance(new, Tensor):
        raise InputError(f"the function for {at.site} gives the new value, a tensor {tuple(value.shape)}: got {new!r}")
    if new.shape != value.shape:
        raise InputError(f"{at.site} holds {tuple(value.shape)}: it cannot be replaced by {tuple(new.shape)}")
    return new


def _add(residual: Tensor, value: Tensor, at: At) -> Tensor:
    residual = per_branch(residual, len(value), Call(at.branches))
    if residual.shape not in (value.shape, (1, *value.shape[1:])):
        raise InputError(
            f"{at.site} holds {tuple(value.shape)}: a residual of {tuple(residual.shape)} cannot be added to it"
        )
    return value + residual


@overload
def changed(model: Denoiser, change: Edit | AttentionEdit) -> Denoiser: ...
@overload
def changed(model: nn.Module, change: Edit | AttentionEdit) -> Callable[..., Any]: ...
@overload
def changed(model: nn.Module | Denoiser, change: Edit | AttentionEdit) -> Callable[..., Any]: ...
def changed(model: nn.Module | Denoiser, change: Edit | AttentionEdit) -> Callable[..., Any]:
    """The model with a change in each of its calls."""
    if isinstance(model, Denoiser):
        return Told(model, partial(Call.changed, change=change))
    return lambda *args, **kwargs: run(model, [change], Now(), *args, **kwargs)


def _network(model: Any) -> nn.Module:
    """The module that is called."""
    net = model if isinstance(model, nn.Module) else getattr(model, "net", None)
    if not isinstance(net, nn.Module):
        raise InputError(f"a tap needs a network or a denoiser with one: got {type(model).__name__}")
    return getattr(net, "_orig_mod", net)  # pyright: ignore[reportReturnType]


def _named(net: nn.Module) -> nn.Module:
    """The module whose places are named: the one inside of a wrapper of ours."""
    return getattr(net, "foreign", net)  # pyright: ignore[reportReturnType]
