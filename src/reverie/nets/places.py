"""Where a network can be tapped: the named places of our networks and of diffusers' modules, and how a hook gets there."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from reverie.core.errors import RunError
from reverie.nets.attention import Attending, Hook, Product

Change = Callable[[Tensor], Tensor | None]
"""Sees a value; what it returns, unless None, takes its place."""

FOREIGN = re.compile(
    r"(.*\.)?(down_blocks|up_blocks|resnets|attentions|transformer_blocks|downsamplers|upsamplers)\.\d+|mid_block"
)
"""Paths of the blocks of a diffusers module."""


@dataclass(frozen=True)
class Place:
    """A value in a network: the output of the module at ``path``, its input, or one of the skip connections that it takes.

    Attributes:
        of: "out", "in", or the position of the skip connection.
        attention: whether the module is an attention.
    """

    path: str
    of: str | int = "out"
    attention: bool = False

    def under(self, prefix: str) -> Place:
        """The place seen from a module that has this one's network at the path ``prefix``."""
        return replace(self, path=f"{prefix}.{self.path}") if prefix else self

    def hook(self, net: nn.Module, change: Change) -> None:
        """Let ``change`` see the value whenever it passes, for good: ``net`` is a copy for one call."""
        module = net.get_submodule(self.path)
        if self.of == "out":
            module.register_forward_hook(lambda module, args, out: _changed(module, out, change))
        else:
            module.register_forward_pre_hook(
                lambda module, args, kwargs: self._entering(args, kwargs, change), with_kwargs=True
            )

    def _entering(self, args: tuple[Any, ...], kwargs: dict[str, Any], change: Change) -> Any:
        if isinstance(self.of, int):
            skips = kwargs["res_hidden_states_tuple"]
            new = change(skips[self.of])
            if new is None:
                return None
            skips = (*skips[: self.of], new, *skips[self.of + 1 :])
            return args, {**kwargs, "res_hidden_states_tuple": skips}
        new = change(args[0] if args else kwargs["hidden_states"])
        if new is None:
            return None
        return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})


def _changed(module: nn.Module, out: Any, change: Change) -> Any:
    """The output of a module with its value changed: of several outputs, the one that goes on to the next block."""
    if isinstance(out, Tensor):
        return change(out)
    i = len(out) - 1 if type(module).__name__ == "JointTransformerBlock" else 0
    new = change(out[i])
    return None if new is None else (*out[:i], new, *out[i + 1 :])


def of(net: nn.Module) -> dict[str, Place]:
    """The places of a network by name: each block's input, attentions and output, and the skip connections.

    In our networks a block is what lies in a list of modules, skip connections are those in the list "skip", and an attention is an
    :class:`~reverie.nets.attention.Attending`.
    """
    foreign = type(net).__module__.startswith("diffusers.")
    found: dict[str, Place] = {}
    for name, module in net.named_modules():
        if FOREIGN.fullmatch(name) if foreign else _listed(net, name):
            if not name.startswith("skip."):
                found[f"{name}.in"] = Place(name, "in")
            found[name] = Place(name, attention=_attends(module))
        elif _attends(module):
            found[name.replace(".attention.attention", ".attention")] = Place(name, attention=True)
    if foreign:
        found |= _skips(net)
    return found


def _listed(net: nn.Module, name: str) -> bool:
    """Whether the module lies in a list, and is none itself."""
    owner, _, own = name.rpartition(".")
    listed = own.isdigit() and isinstance(net.get_submodule(owner), nn.ModuleList)
    return listed and not isinstance(net.get_submodule(name), nn.ModuleList)


def _attends(module: nn.Module) -> bool:
    return isinstance(module, Attending) or (hasattr(module, "to_q") and hasattr(module, "processor"))


def _skips(net: Any) -> dict[str, Place]:
    """The skip connections of a diffusers U-Net, numbered in the order they are made; the up blocks take them from the end."""
    if not hasattr(net, "up_blocks"):
        return {}
    left = sum(len(block.resnets) for block in net.up_blocks)
    found = {}
    for up, block in enumerate(net.up_blocks):
        left -= len(block.resnets)
        found |= {f"skip.{left + i}": Place(f"up_blocks.{up}", i) for i in range(len(block.resnets))}
    return dict(sorted(found.items(), key=lambda item: int(item[0][5:])))


class _Intercept(TorchFunctionMode):
    """Puts a function in the place of the fused attention product, whatever processor calls it."""

    def __init__(self, product: Callable[..., Tensor]) -> None:
        super().__init__()
        self.product, self.seen = product, False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            self.seen = True
            return self.product(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def attend(module: Any, hook: Hook) -> None:
    """Let ``hook`` take the place of an attention's product, for good: the module is a copy for one call. One that is there acts inside."""
    module.hook = _chained(hook, getattr(module, "hook", None))
    if not isinstance(module, Attending):
        module.forward = _intercepting(module)


def _chained(outer: Hook, inner: Hook | None) -> Hook:
    """``outer`` with ``inner`` as the product that it sees."""
    if inner is None:
        return outer

    def both(product: Product, q: Tensor, k: Tensor, v: Tensor, **what: Any) -> Tensor:
        return outer(lambda q, k, v: inner(product, q, k, v, **what), q, k, v, **what)

    return both


def _intercepting(module: Any) -> Callable[..., Any]:
    """The forward of a diffusers attention with its ``hook`` in the place of the fused product."""
    forward = type(module).forward.__get__(module)
    joint = getattr(module, "added_kv_proj_dim", None) is not None
    cross = bool(getattr(module, "is_cross_attention", False)) and not joint

    def call(*args: Any, **kwargs: Any) -> Any:
        streams: tuple[int, ...] = ()
        if joint:
            x = args[0] if args else kwargs["hidden_states"]
            context = args[1] if len(args) > 1 else kwargs["encoder_hidden_states"]
            streams = (x.shape[1], context.shape[1])

        def product(
            query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *_: Any, **rest: Any
        ) -> Tensor:
            def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                return F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, **rest)

            what = {"mask": attn_mask, "scale": rest.get("scale"), "cross": cross, "streams": streams}
            return module.hook(fused, query, key, value, **what)

        with _Intercept(product) as mode:
            out = forward(*args, **kwargs)
        if not mode.seen:
            raise RunError(
                f"{type(module.processor).__name__} does not use the fused attention of torch, so it cannot be tapped: "
                "set diffusers' AttnProcessor2_0"
            )
        return out

    return call
