"""Where a network can be tapped: the named places of our networks and of diffusers' modules, and how a hook gets there."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from reverie.core.errors import RunError
from reverie.nets.attention import Attending

Change = Callable[[Tensor], Tensor | None]
"""Sees a value; what it returns, unless None, takes its place."""

FOREIGN = re.compile(
    r"(.*\.)?(down_blocks|up_blocks|resnets|attentions|transformer_blocks|downsamplers|upsamplers)\.\d+|mid_block"
)
"""Paths of the blocks of a diffusers module."""


@dataclass(frozen=True)
class Place:
    """A value in a network: the output of ``module``, its input, or one of the skip connections that it takes.

    Attributes:
        of: "out", "in", or the position of the skip connection.
        attention: whether the module is an attention.
    """

    module: nn.Module
    of: str | int = "out"
    attention: bool = False

    @contextmanager
    def hooked(self, change: Change) -> Iterator[None]:
        """Let ``change`` see the value whenever it passes."""
        if self.of == "out":
            handle = self.module.register_forward_hook(lambda module, args, out: _changed(module, out, change))
        else:
            handle = self.module.register_forward_pre_hook(
                lambda module, args, kwargs: self._entering(args, kwargs, change), with_kwargs=True
            )
        try:
            yield
        finally:
            handle.remove()

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
                found[f"{name}.in"] = Place(module, "in")
            found[name] = Place(module, attention=_attends(module))
        elif _attends(module):
            found[name.replace(".attention.attention", ".attention")] = Place(module, attention=True)
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
    for block in net.up_blocks:
        left -= len(block.resnets)
        found |= {f"skip.{left + i}": Place(block, i) for i in range(len(block.resnets))}
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


@contextmanager
def intercepted(module: Any, hook: Callable[..., Tensor]) -> Iterator[None]:
    """Let ``hook(product, q, k, v, mask=, scale=, cross=, streams=)`` take the place of a diffusers attention's product."""
    forward, own = module.forward, module.__dict__.get("forward")
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

            return hook(fused, query, key, value, mask=attn_mask, scale=rest.get("scale"), cross=cross, streams=streams)

        with _Intercept(product) as mode:
            out = forward(*args, **kwargs)
        if not mode.seen:
            raise RunError(
                f"{type(module.processor).__name__} does not use the fused attention of torch, so it cannot be tapped: "
                "set diffusers' AttnProcessor2_0"
            )
        return out

    module.forward = call
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own
