"""The boundary of a network: what goes in has the dtype of its weights, what comes out that of what went in."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Bounded:
    """What holds a network ``net`` and casts at its boundary."""

    net: nn.Module
    _first: tuple[nn.Module | None, Mapping[str, Tensor | None], str] = (None, {}, "")

    @property
    def weight(self) -> Tensor | None:
        """The network's first floating weight, wherever it lies now; its place is looked for once, as a step has no time for that."""
        net, owner, name = self._first
        if net is not self.net or (name and name not in owner):
            places = ((m._parameters, key) for m in self.net.modules() for key in m._parameters)
            owner, name = next(
                ((own, key) for own, key in places if (p := own[key]) is not None and p.is_floating_point()), ({}, "")
            )
            self._first = self.net, owner, name
        return owner.get(name)

    @property
    def device(self) -> torch.device:
        return torch.device("cpu") if self.weight is None else self.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.weight is None else self.weight.dtype

    def inside(self, x: Tensor, time: Tensor, *others: Any, net: Callable[..., Tensor] | None = None) -> Tensor:
        """``net(x, time, *others)`` in the dtype of the weights, given back in that of ``x``; :attr:`net`, or what is given for it.

        The time, which half precision is too coarse for, is never cast to less than it has.
        """
        weight, net = self.weight, self.net if net is None else net
        if weight is None or weight.dtype == x.dtype:
            out = net(x, time, *others)
        else:
            out = net(x.to(weight.dtype), time.to(torch.promote_types(time.dtype, weight.dtype)), *others)
        return out if out.dtype == x.dtype else out.to(x.dtype)
