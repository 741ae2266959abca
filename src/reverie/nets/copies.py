"""Copies of a network that share its weights: what one call changes of a network, no other call sees."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn


def sharing(net: nn.Module, paths: Iterable[str]) -> nn.Module:
    """A copy of ``net`` in which the modules at ``paths``, and those that lead there, are new objects, uncompiled; all else is the same."""
    fresh = {"": _shallow(net)}
    for path in paths:
        here = ""
        for part in path.split(".") if path else ():
            there = f"{here}.{part}" if here else part
            if there not in fresh:
                children: Any = fresh[here]._modules
                fresh[there] = children[part] = _shallow(children[part])
            here = there
    return fresh[""]


def _shallow(module: nn.Module) -> nn.Module:
    """Another object with the attributes of a module, and lists of sub-modules and hooks of its own."""
    own = {name: v.copy() if name == "_modules" or "_hooks" in name else v for name, v in vars(module).items()}
    new = object.__new__(type(module))
    vars(new).update(own, _compiled_call_impl=None)
    return new
