"""Activation checkpointing of cheap functions: they are computed again on the way back, in place of keeping what is inside them, or what
they give, for it (Chen et al. 2016).

Unlike ``torch.utils.checkpoint`` this composes with second derivatives; forward derivatives and ``vmap`` keep everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from reverie.nets.prepacked import special

SMALL = 1 << 18
"""Numbers below which keeping costs less than computing again (a U-Net of the demo's size trained at half speed without this)."""


class _Checkpointed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.function = function
        ctx.save_for_backward(*tensors)
        return function(*tensors)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return None, *torch.func.vjp(ctx.function, *ctx.saved_tensors)[1](gradient)


def checkpointed(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """``function(*tensors)``, of which only the tensors are kept for the gradient.

    A compiler chooses by itself what to keep, under autocast the way back would run in another precision, and a forward derivative of
    this would have no gradient of its own: they, and transforms of ``torch.func``, get the plain call.
    """
    if _plain(tensors[0]):
        return function(*tensors)
    return _Checkpointed.apply(function, *tensors)  # pyright: ignore[reportReturnType]


def _plain(x: Tensor) -> bool:
    return x.numel() < SMALL or not torch.is_grad_enabled() or special(x)


@contextmanager
def rematerialised(value: Tensor, again: Callable[[], Tensor]) -> Iterator[None]:
    """Inside, whoever would keep ``value`` for a gradient asks ``again()`` for it on the way back.

    ``again`` should hold nothing that is not kept anyway. Where others decide what is kept (checkpointing), they go on to.
    """
    if _plain(value):
        yield
        return
    outer = torch._C._autograd._top_saved_tensors_default_hooks(True)  # pyright: ignore[reportAttributeAccessIssue]
    if outer is not None and outer[1] is not _unpack:
        yield
        return

    address = value.data_ptr()  # autograd holds on to the hook, which must not hold on to the value

    def pack(kept: Tensor) -> Any:
        if kept.data_ptr() != address:
            return kept if outer is None else outer[0](kept)
        size, stride = kept.shape, kept.stride()
        return lambda: again().as_strided(size, stride)

    with torch.autograd.graph.saved_tensors_hooks(pack, _unpack):
        yield


def _unpack(kept: Any) -> Tensor:
    with torch.no_grad():
        return kept if isinstance(kept, Tensor) else kept()
