"""The few tensor operations the algebra is made of."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from reverie.core.errors import InputError

Scalar = float | Tensor


def align(value: Scalar, x: Tensor) -> Scalar:
    """Make a per-sample value broadcast over ``x``: a float or a () tensor as it is, (B,) as (B, 1, …) on x's device and in its dtype.

    Raises:
        InputError: for any other shape; the message names both.
    """
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value
    if value.ndim == 1 and value.shape[0] == x.shape[0]:
        return onto(value, x).reshape(-1, *(1,) * (x.ndim - 1))
    if value.ndim == x.ndim and value.shape[0] == x.shape[0] and value.shape[1:].numel() == 1:
        return onto(value, x)
    raise InputError(
        f"a time or coefficient must be a number or have one entry a sample: "
        f"got shape {tuple(value.shape)} for x of shape {tuple(x.shape)}"
    )


def finite(x: Tensor) -> bool:
    """Whether all numbers are finite, at one read from the device; true where numbers cannot be looked at (compiled, transformed, fake)."""
    if torch.compiler.is_compiling() or isinstance(x, FakeTensor) or _transformed() is not None:
        return True
    return bool(x.detach().isfinite().all())


_transformed = torch._C._functorch.maybe_current_level  # pyright: ignore[reportAttributeAccessIssue]


def onto(value: Tensor, x: Tensor) -> Tensor:
    """``value`` on the device and in the dtype of ``x``. It is cast before it leaves the host, which goes on while CUDA copies."""
    if value.device == x.device or value.device.type != "cpu":
        return value.to(x)
    value = value.to(x.dtype)
    return value.pin_memory().to(x.device, non_blocking=True) if x.device.type == "cuda" else value.to(x.device)


def exact(x: Tensor) -> torch.dtype:
    """The dtype of exact arithmetic on ``x``: float64 on the host, which alone is sure to have it, else float32."""
    return torch.float64 if x.device.type == "cpu" else torch.float32


def asks_gradient(*tensors: Tensor | None) -> bool:
    """Whether what is made of these is to be differentiated."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


def combine(coefficients: Sequence[Scalar], tensors: Sequence[Tensor]) -> Tensor:
    """``Σ cᵢ·xᵢ``. Host floats fuse scale and add, and a zero skips its term; tensor coefficients multiply out.

    The terms are added in place: nothing keeps what is in between, save a compiler and the transforms of ``torch.func``.
    """
    total: Tensor | None = None
    fresh = False
    in_place = not torch.compiler.is_compiling() and _transformed() is None
    for c, x in zip(coefficients, tensors, strict=True):
        if isinstance(c, Tensor):
            total = c * x if total is None else total + c * x
        elif c == 0.0:
            continue
        elif total is None:
            total = x if c == 1.0 else x * c
        elif fresh and total.shape == x.shape and total.dtype == x.dtype:
            total.add_(x, alpha=c)
        else:
            total = torch.add(total, x, alpha=c)
        fresh = in_place and total is not x
    return torch.zeros_like(tensors[0]) if total is None else total


FARTHEST = 16.0
"""What no picture in [−1, 1] reaches, drawn by however poor a model."""


def check_range(images: Tensor, what: str) -> None:
    """Raise an :class:`InputError` when pictures (B, 1 or 3, H, W) hold numbers far outside [−1, 1], as bytes do; other data has any."""
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not images.numel():
        return
    if FARTHEST < (largest := float(images.detach().abs().max())) < math.inf:
        raise InputError(
            f"{what} holds values up to {largest:g}: pictures are in [-1, 1], such as x / 127.5 - 1 of bytes"
        )
