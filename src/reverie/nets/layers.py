"""Layers that several networks share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.core.errors import InputError, unknown
from reverie.nets.checkpointing import checkpointed, rematerialised
from reverie.nets.prepacked import Linear, plain, special

Module = TypeVar("Module", bound=nn.Module)


def zeroed(module: Module) -> Module:
    """The module with all parameters set to zero: a residual branch that ends in it starts as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """A normalised ``x``, scaled and shifted; zero shift and scale leave it as it is."""
    return torch.addcmul(shift, x, 1 + scale)


def check_picture(x: Tensor, channels: int, multiple: int, size: tuple[int, int] | None = None) -> None:
    """Raise InputError unless ``x`` is ``(B, channels, H, W)``, H and W multiples of ``multiple``; and ``size``."""
    if x.ndim != 4 or x.shape[1] != channels:
        raise InputError(
            f"The network was given a tensor of shape {tuple(x.shape)}; expected (batch, {channels}, height, width). "
            f"Give pictures with {channels} channels, or build the network for the channels of your data."
        )
    check_size((x.shape[2], x.shape[3]), multiple)
    if size is not None and tuple(x.shape[2:]) != size:
        raise InputError(
            f"The network was given pictures of {x.shape[2]}x{x.shape[3]} pixels; built for {size[0]}x{size[1]}. "
            "Resize the pictures, or build the network with their size."
        )


def check_size(size: tuple[int, int], multiple: int) -> None:
    """Raise InputError unless height and width are positive multiples of ``multiple``."""
    if any(side < multiple or side % multiple for side in size):
        nearest = "x".join(str(max(multiple, round(side / multiple) * multiple)) for side in size)
        raise InputError(
            f"Pictures of {size[0]}x{size[1]} pixels do not fit this network; "
            f"height and width must be multiples of {multiple}. "
            f"Resize the data (for example to {nearest}), or choose a smaller patch or fewer levels."
        )


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width from one side or both."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


IN_CACHE = 1 << 17
"""Numbers on which several simple operations are done one after the other before the next."""


class TanhGELU(nn.Module):
    """``x·(1 + tanh u) / 2`` with u = √(2/π)·(x + .044715·x³).

    On a CPU as ``x·σ(2u)``, the same number: PyTorch's tanh takes four times as long as its sigmoid there.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not plain(x) or special(x):
            return F.gelu(x, approximate="tanh")
        return _TanhGELU.apply(x)  # pyright: ignore[reportReturnType]


class _TanhGELU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(x)
        twice = 2 * (2 / math.pi) ** 0.5
        slope = x.new_tensor(twice)
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        for part, y in zip(x.reshape(-1).split(IN_CACHE), out.view(-1).split(IN_CACHE), strict=True):
            torch.addcmul(slope, part, part, value=0.044715 * twice, out=y)
            y.mul_(part).sigmoid_().mul_(part)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return torch.ops.aten.gelu_backward(gradient, *ctx.saved_tensors, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": TanhGELU,
    "gelu-exact": nn.GELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
}


class FeedForward(nn.Module):
    """Two linear layers with an activation between, on each token.

    With ``gated`` the first gives twice the hidden features, and half of them, activated, multiply the others (Shazeer 2020).
    """

    def __init__(self, width: int, hidden: int, activation: str = "gelu", gated: bool = False) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise unknown("activation", activation, ACTIVATIONS)
        self.gated = gated
        self.inner = Linear(width, 2 * hidden if gated else hidden)
        self.activation = ACTIVATIONS[activation]()
        self.outer = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.inner(x)
        hidden = self.activated(inner)
        with rematerialised(hidden, lambda: self.activated(inner)):
            return self.outer(hidden)

    def activated(self, x: Tensor) -> Tensor:
        if not self.gated:
            return self.activation(x)
        gate, value = x.chunk(2, dim=-1)
        return self.activation(gate) * value


def group_norm(channels: int, eps: float = 1e-6, groups: int = 32) -> nn.GroupNorm:
    """Group normalisation with so many groups, or as many as divide both them and the channels."""
    return nn.GroupNorm(math.gcd(groups, channels), channels, eps=eps)


def norm_modulate(norm: nn.LayerNorm, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """``x`` normalised without parameters and modulated; for its gradient only ``x`` is kept."""
    return checkpointed(lambda x, shift, scale: modulate(norm(x), shift, scale), x, shift, scale)


def normalised(module: nn.Module, norm: nn.LayerNorm, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """``module`` of what :func:`norm_modulate` gives, which is not kept for its gradient either."""
    normed = norm_modulate(norm, x, shift, scale)
    with rematerialised(normed, lambda: norm_modulate(norm, x, shift, scale)):
        return module(normed)


def norm_silu(norm: nn.GroupNorm, x: Tensor, shift: Tensor | None = None, scale: Tensor | None = None) -> Tensor:
    """SiLU of the normalised, and with ``shift`` and ``scale`` (B, C, 1, 1) modulated, ``x`` (B, C, H, W).

    For its gradient only ``x`` is kept.
    """

    def function(x: Tensor, weight: Tensor, bias: Tensor, *modulation: Tensor) -> Tensor:
        x = F.group_norm(x, norm.num_groups, weight, bias, norm.eps)
        return F.silu(modulate(x, *modulation) if modulation else x)

    return checkpointed(
        function, x, norm.weight, norm.bias, *(() if shift is None or scale is None else (shift, scale))
    )


def channels_last(x: Tensor) -> Tensor:
    """The same picture, its channels next to each other in memory: what convolutions and attention like best.

    Inside ``torch.func`` transforms it is left as it is: they do not know memory formats.
    """
    if not torch.compiler.is_compiling() and torch._C._functorch.is_functorch_wrapped_tensor(x):  # pyright: ignore[reportAttributeAccessIssue]
        return x
    return x.contiguous(memory_format=torch.channels_last)


def plain_norm(width: int, eps: float = 1e-6) -> nn.LayerNorm:
    """Layer normalisation without parameters: what scales and shifts comes from elsewhere."""
    return nn.LayerNorm(width, elementwise_affine=False, eps=eps)


def to_tokens(x: Tensor) -> Tensor:
    """The places of a picture ``(B, C, H, W)`` as tokens ``(B, H * W, C)``, laid out as such: sums keep the layout of what comes first."""
    return x.flatten(2).transpose(1, 2).contiguous()


def unpatch(tokens: Tensor, grid: tuple[int, int], patch: int) -> Tensor:
    """Tokens ``(B, N, patch * patch * C)`` laid out as a picture ``(B, C, H, W)``; ``grid`` holds the rows and columns of patches."""
    patches = tokens.unflatten(-1, (patch, patch, -1)).unflatten(1, grid)
    return patches.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
