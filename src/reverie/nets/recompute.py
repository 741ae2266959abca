"""Cheap functions that are computed again on the way back, in place of keeping what is inside them for it.

Unlike ``torch.utils.checkpoint`` this composes with forward derivatives, ``vmap`` and second derivatives, as it is itself written
with ``torch.func``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

SMALL = 1 << 18
"""Numbers below which keeping costs less than computing again (a U-Net of the demo's size trained at half speed without this)."""


class _Recomputed(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return function(*tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.function = inputs[0]
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return None, *torch.func.vjp(ctx.function, *ctx.saved_tensors)[1](gradient)

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        full = tuple(torch.zeros_like(x) if t is None else t for x, t in zip(ctx.saved_tensors, tangents, strict=True))
        return torch.func.jvp(ctx.function, ctx.saved_tensors, full)[1]


def recomputed(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """``function(*tensors)``, of which only the tensors are kept for the gradient.

    A compiler chooses by itself what to keep, and under autocast the way back would run in another precision: both get the plain call.
    """
    plain = not torch.is_grad_enabled() or torch.compiler.is_compiling() or tensors[0].numel() < SMALL
    if plain or torch.is_autocast_enabled(tensors[0].device.type):
        return function(*tensors)
    return _Recomputed.apply(function, *tensors)  # pyright: ignore[reportReturnType]
