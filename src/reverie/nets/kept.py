"""Layers that keep their weights for a run in the form that a CPU works fastest with, while no gradient is asked for."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from reverie.core.tensors import asks_gradient
from reverie.nets.copies import sharing

WIDE = 1 << 17
"""Inputs times outputs of a linear layer that gains by the form: 0 to 30 % on a Zen 3, for 64 rows and more."""


class Keeping:
    """What such a layer adds to its module.

    Attributes:
        kept: the weights in that form, in a network that is :func:`prepacked`; they serve calls without gradient.
    """

    kept: Tensor | None = None

    @property
    def keeps(self) -> int:
        """Bytes of the form; 0 where it does not pay."""
        raise NotImplementedError

    def form(self) -> Tensor:
        """The weights in that form."""
        raise NotImplementedError


def _keeping(net: nn.Module) -> dict[str, Keeping]:
    return {path: layer for path, layer in net.named_modules() if isinstance(layer, Keeping) and layer.keeps}


def size(net: nn.Module) -> int:
    """Bytes that :func:`prepacked` makes."""
    return sum(layer.keeps for layer in _keeping(net).values())


def prepacked(net: nn.Module) -> nn.Module:
    """A copy of ``net`` that shares its weights, whose layers keep them in their other form besides: for as long as they do not change.

    Made anew for each run, at 3 % (transformer) to 14 % (U-Net) of an evaluation of eight samples, so that they are never those of other
    weights.
    """
    paths = _keeping(net)
    packed = sharing(net, paths)
    with torch.no_grad():
        for path, layer in paths.items():
            packed.get_submodule(path).kept = layer.form()  # pyright: ignore[reportArgumentType]
    return packed


def plain(*tensors: Tensor) -> bool:
    """Whether these are numbers that the other forms are for: of single precision, on a CPU."""
    return all(x.device.type == "cpu" and x.dtype == torch.float32 for x in tensors)


def special(x: Tensor) -> bool:
    """Whether a compiler, autocast, forward derivatives or a transform of ``torch.func`` is at work: they want the plain operations."""
    if torch.compiler.is_compiling() or torch.is_autocast_enabled(x.device.type) or forward_ad._current_level >= 0:
        return True
    return torch._C._functorch.peek_interpreter_stack() is not None  # pyright: ignore[reportAttributeAccessIssue]


class Linear(Keeping, nn.Linear):
    """A linear layer, of which oneDNN keeps the weight in blocks: the product and the bias in one pass, 14 % faster at DiT-S/2's widths.

    For calls with less than 64 rows, or what is not single precision on a CPU, it is the plain one.
    """

    @property
    def keeps(self) -> int:
        wide = plain(self.weight) and self.weight.numel() >= WIDE and torch.backends.mkldnn.is_available()
        return 4 * self.weight.numel() if wide and hasattr(torch.ops.mkldnn, "_linear_pointwise") else 0

    def form(self) -> Tensor:
        return torch.ops.mkldnn._reorder_linear_weight(self.weight.detach(), 1024)

    def forward(self, x: Tensor) -> Tensor:
        gradient = asks_gradient(x, self.weight, self.bias)
        if self.kept is None or gradient or x.numel() < 64 * self.in_features or special(x):
            return super().forward(x)
        return torch.ops.mkldnn._linear_pointwise(x, self.kept, self.bias, "none", [], "")
