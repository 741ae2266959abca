"""Forward derivatives of networks: the one place that knows what they ask for."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


def jvp(f: Callable[..., Tensor], primals: tuple[Tensor, ...], tangents: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """``f(*primals)`` and its derivative along ``tangents``, in one pass forward; gradients of both are right.

    Attention runs unfused, which alone has a forward derivative; autocast is off, for a tangent of half precision is mostly rounding;
    and layer normalisation is taken apart: the forward derivative of PyTorch's own takes mean and deviation for constants, so that its
    gradient is wrong by tens of percent and nobody is told. What other threads run meanwhile is as it was.

    Args:
        f: differentiable, such as a network at a state and a time.
        primals, tangents: one tangent a primal, of its shape, dtype and device.
    """
    kind: Any = primals[0].device.type
    with torch.autocast(kind, enabled=False), _Apart():
        return torch.func.jvp(f, primals, tangents)  # pyright: ignore[reportReturnType]


class _Apart(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return attention(*args, **kwargs)
        return (layer_norm if func in (F.layer_norm, torch.layer_norm) else func)(*args, **kwargs)


def attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *args: Any, **kwargs: Any
) -> Tensor:
    """``torch.nn.functional.scaled_dot_product_attention`` by single operations."""
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, -torch.inf)
    return torch.ops.aten._scaled_dot_product_attention_math(query, key, value, attn_mask, *args, **kwargs)[0]


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    _: bool = True,
) -> Tensor:
    """``torch.nn.functional.layer_norm`` by single operations."""
    dims = tuple(range(-len(normalized_shape), 0))
    centred = input - input.mean(dims, keepdim=True)
    out = centred * (centred.square().mean(dims, keepdim=True) + eps).rsqrt()
    out = out if weight is None else out * weight
    return out if bias is None else out + bias
