"""The faster path of sampling: prepacked weights, compiled networks where that pays, and batches that fit into memory.

All act only where neither weights nor state nor condition ask for a gradient. Wide layers prepack their weights for a run
(:mod:`reverie.nets.prepacked`). A network without them may be compiled, and what is compiled is there for the next run. Either belongs to
the calls of its run (:mod:`reverie.core.call`): the network itself stays the plain one.
"""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from reverie.core.call import Call
from reverie.core.denoiser import Denoiser, Told
from reverie.core.devices import available, synchronise
from reverie.core.tensors import asks_gradient
from reverie.nets import prepacked
from reverie.nets.prepacked import special

if TYPE_CHECKING:
    from reverie.core.condition import Cond

SAVING = 0.08
"""Share of a network's time that compiling saves, a cautious figure: the convolutions and matrix products stay what they are."""
PREPARATION = 0.5
"""Seconds that compiling takes for each layer that has weights."""
RATE = 2e10
"""Operations a second that any machine reaches: it bounds what an evaluation can take without making one."""
LARGEST = {"cpu": 64}
"""Larger batches are not faster there; on an accelerator what fits is."""
SMALL = 10_000_000
"""Parameters below which :data:`LARGEST` samples fit into any memory of a host."""


def network(denoise: Denoiser) -> nn.Module | None:
    """The network of the model that is guided, if it has one."""
    while not isinstance(getattr(denoise, "net", None), nn.Module):
        if "base" not in vars(denoise):
            return None
        denoise = denoise.base  # pyright: ignore[reportAttributeAccessIssue]
    return denoise.net  # pyright: ignore[reportAttributeAccessIssue]


def worthwhile(seconds: float, evaluations: int, layers: int) -> bool:
    """Whether compiling saves more than it takes.

    Args:
        seconds: what an evaluation takes without it.
        evaluations: how many there will be.
        layers: that have weights.
    """
    return SAVING * seconds * evaluations > PREPARATION * layers


@dataclass(frozen=True)
class _InPlaceOf:
    """Runs ``other`` in the place of ``net`` where that asks for no gradient."""

    net: nn.Module
    other: Callable[..., Any]

    def __call__(self, net: nn.Module, x: Tensor, cond: Cond | None) -> Callable[..., Any]:
        return self.other if net is self.net and not asks_gradient(x, *_values(cond)) and not special(x) else net


def free(net: nn.Module, x: Tensor | None, cond: Cond | None) -> bool:
    """Whether neither the weights nor the state nor the condition of a run ask for a gradient."""
    return not asks_gradient(*net.parameters(), x, *_values(cond))


def _values(cond: Cond | None) -> list[Tensor | None]:
    return [] if cond is None else [v for name in cond for v in (cond[name].value, cond[name].null)]


def fast(denoise: Denoiser, rows: int, x: Tensor | None, cond: Cond | None, evaluations: int) -> Denoiser:
    """The denoiser with its network running the faster way that pays for so many evaluations of batches of ``rows``.

    Weights are prepacked where that fits into a quarter of the free memory; a compiler does not know it, and saves less.
    Else the network is compiled; without a working compiler it runs as it is.
    """
    net = network(denoise)
    if net is None or net._compiled_call_impl is not None or hasattr(net, "_orig_mod") or not free(net, x, cond):
        return denoise
    if evaluations > 1 and 0 < prepacked.packed_bytes(net) <= available(denoise.device) // 4:
        other = prepacked.prepack(net)
    else:
        other = _compiled(net, denoise, rows, cond, evaluations)
    return denoise if other is None else Told(denoise, partial(Call.served, faster=_InPlaceOf(net, other)))


_COMPILED: WeakKeyDictionary[nn.Module, Callable[..., Any] | None] = WeakKeyDictionary()
"""The compiled call of a network, or None where there is no compiler; forgotten with the network."""
_COMPILING = Lock()


def _compiled(
    net: nn.Module, denoise: Denoiser, rows: int, cond: Cond | None, evaluations: int
) -> Callable[..., Any] | None:
    """The compiled call of the network, made now if it pays; None to go without."""
    if not _COMPILING.acquire(blocking=False):
        return None  # another thread is at it
    try:
        if net not in _COMPILED and _pays(net, denoise, rows, cond, evaluations):
            alias = object.__new__(type(net))  # what is compiled holds on to it, and must not to the network
            object.__setattr__(alias, "__dict__", net.__dict__)
            compiled = torch.no_grad()(torch.compile(alias._call_impl))
            try:
                compiled(*_example(net, denoise, rows, cond))
                _COMPILED[net] = compiled
            except Exception:  # whatever a compiler may raise: there is a way without it
                _COMPILED[net] = None
        return _COMPILED.get(net)
    finally:
        _COMPILING.release()


def _pays(net: nn.Module, denoise: Denoiser, rows: int, cond: Cond | None, evaluations: int) -> bool:
    layers = sum(1 for module in net.modules() if next(module.parameters(recurse=False), None) is not None)
    weights = sum(p.numel() for p in net.parameters())
    most = 2.0 * weights * math.prod(denoise.shape[1:]) * rows / RATE  # each weight at each place
    if not worthwhile(most, evaluations, layers):
        return False
    example = _example(net, denoise, rows, cond)
    synchronise(denoise.device)
    start = time.perf_counter()
    with torch.no_grad():
        net(*example)  # the network alone: a guide may remember what it has seen
    synchronise(denoise.device)
    return worthwhile(time.perf_counter() - start, evaluations, layers)


def _example(net: nn.Module, denoise: Denoiser, rows: int, cond: Cond | None) -> tuple[Any, ...]:
    dtype = next(net.parameters()).dtype
    x = torch.zeros(rows, *denoise.shape, device=denoise.device, dtype=dtype)
    at = torch.tensor(0.5, device=denoise.device)
    return x, at, None if cond is None else cond.index(slice(0, rows))


class _Live(TorchDispatchMode):
    """Follows how many bytes of results are alive, and the most there have been."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else (out,):
            if isinstance(value, Tensor) and not func.is_view:
                size = value.numel() * value.element_size()
                self.now += size
                self.peak = max(self.peak, self.now)
                weakref.finalize(value, self._gone, size)
        return out

    def _gone(self, size: int) -> None:
        self.now -= size


def footprint(denoise: Denoiser, cond: Cond | None) -> int:
    """Bytes that the network takes for one sample besides its weights, found without computing anything; 0 where that cannot be told."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    net = network(denoise)
    if net is None:
        return 0
    try:
        with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True), _Live() as live:
            weight = next(net.parameters())
            x = torch.empty(1, *denoise.shape, device=weight.device, dtype=weight.dtype)
            net(x, torch.tensor(0.5, device=weight.device), cond)
        return live.peak
    except Exception:  # a network that looks at its numbers
        return 0


def fitting(denoise: Denoiser, x: Tensor | None, cond: Cond | None, n: int) -> int:
    """How many of ``n`` samples to evaluate at a time: at most :data:`LARGEST` for the device, and no more than fit into a quarter of
    its free memory, as guidance evaluates each twice.

    A few small samples go together, and so do those of a run whose gradient is asked for, and of a guide that holds something of each.
    """
    net = network(denoise)
    few = n <= 16 and math.prod(denoise.shape) <= 2**16
    if few or net is None or denoise.together or not free(net, x, cond):
        return n
    largest = min(n, LARGEST.get(denoise.device.type, n))
    if denoise.device.type == "cpu" and sum(p.numel() for p in net.parameters()) <= SMALL:
        return largest
    each = footprint(denoise, None if cond is None else cond.index(slice(0, 1)))
    room = available(denoise.device) // 4 // each if each else n
    return max(1, min(largest, room))
