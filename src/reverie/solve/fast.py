"""The faster path of sampling: frozen weights, compiled networks where that pays, and batches that fit into memory.

All act only where no gradient is asked for. Wide layers keep their weights in another form for a run (:mod:`reverie.nets.kept`).
A network without them may be compiled, and what is compiled stays on it for the next run; outside of a run, and while a tap is open
(:mod:`reverie.nets.taps`), the network is the plain one.
"""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from reverie.core.devices import available, synchronise
from reverie.nets import kept

if TYPE_CHECKING:
    from reverie.core.condition import Cond
    from reverie.core.denoiser import Denoiser

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


@contextmanager
def fast(denoise: Denoiser, rows: int, cond: Cond | None, evaluations: int) -> Iterator[None]:
    """Inside, the network of ``denoise`` runs the faster way that pays for so many evaluations of batches of ``rows``.

    Where another form of the weights fits into a quarter of the free memory it is kept; a compiler does not know it, and saves less.
    Else the network is compiled; without a working compiler it runs as it is.
    """
    net = None if torch.is_grad_enabled() else network(denoise)
    if net is not None and evaluations > 1 and 0 < kept.size(net) <= available(denoise.device) // 4:
        with kept.frozen(net):
            yield
        return
    compiled = None if net is None else _compiled(net, denoise, rows, cond, evaluations)
    if net is None or compiled is None:
        yield
        return
    net._compiled_call_impl = compiled
    try:
        yield
    finally:
        net._compiled_call_impl = None


def _compiled(net: nn.Module, denoise: Denoiser, rows: int, cond: Cond | None, evaluations: int) -> Any:
    """The compiled call of the network, made now if it pays; None to go without."""
    if net._compiled_call_impl is not None or getattr(net, "_tapped", 0):
        return None
    prepared = vars(net).get("_prepared")
    if prepared is not None:
        return prepared or None
    layers = sum(1 for module in net.modules() if next(module.parameters(recurse=False), None) is not None)
    weights = list(net.parameters())
    most = (
        2.0 * sum(p.numel() for p in weights) * math.prod(denoise.shape[1:]) * rows / RATE
    )  # each weight at each place
    if not worthwhile(most, evaluations, layers):
        return None
    some = None if cond is None else cond.index(slice(0, rows))
    x = torch.zeros(rows, *denoise.shape, device=denoise.device, dtype=weights[0].dtype)
    at = torch.tensor(0.5, device=denoise.device)
    synchronise(denoise.device)
    start = time.perf_counter()
    net(x, at, some)  # the network alone: a guide may remember what it has seen
    synchronise(denoise.device)
    if not worthwhile(time.perf_counter() - start, evaluations, layers):
        return None
    compiled = torch.compile(net._call_impl)
    net._compiled_call_impl = compiled
    try:
        net(x, at, some)
    except Exception:  # whatever a compiler may raise: there is a way without it
        object.__setattr__(net, "_prepared", False)
        return None
    finally:
        net._compiled_call_impl = None
    object.__setattr__(net, "_prepared", compiled)
    return compiled


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
    if net is None or getattr(net, "_tapped", 0):
        return 0
    try:
        with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True), _Live() as live:
            weight = next(net.parameters())
            x = torch.empty(1, *denoise.shape, device=weight.device, dtype=weight.dtype)
            net(x, torch.tensor(0.5, device=weight.device), cond)
        return live.peak
    except Exception:  # a network that looks at its numbers
        return 0


def fitting(denoise: Denoiser, cond: Cond | None, n: int) -> int:
    """How many of ``n`` samples to evaluate at a time: at most :data:`LARGEST` for the device, and no more than fit into a quarter of
    its free memory, as guidance evaluates each twice.

    A few small samples, and a run whose gradient is asked for, go together.
    """
    net = network(denoise)
    few = n <= 16 and math.prod(denoise.shape) <= 2**16
    if few or torch.is_grad_enabled() or net is None:
        return n
    largest = min(n, LARGEST.get(denoise.device.type, n))
    if denoise.device.type == "cpu" and sum(p.numel() for p in net.parameters()) <= SMALL:
        return largest
    each = footprint(denoise, None if cond is None else cond.index(slice(0, 1)))
    room = available(denoise.device) // 4 // each if each else n
    return max(1, min(largest, room))
