"""What all networks share: their conditions, the named places inside them, and gradient checkpointing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from reverie.core.condition import Entry, Image, Label, Tokens, Vector, entry_of
from reverie.core.errors import InputError
from reverie.nets.embeddings import Numbers

if TYPE_CHECKING:
    from reverie.core.condition import Cond, ConditionSpec
    from reverie.nets.config import NetConfig


class Skip(nn.Identity):
    """A skip connection: the place where what an early block gave goes on to a late one."""


class Network(nn.Module):
    """``net(x, time, cond)``: pictures ``(B, channels, H, W)`` to pictures.

    Its blocks lie in lists of modules (or lists of lists) and its skip connections in the list ``skip``: that is what
    :mod:`reverie.nets.taps` names them by.

    Attributes:
        conditions: what ``cond`` may hold, by name.
        config: its options; None for a module of another library.
        checkpointing: compute the blocks again on the way back instead of keeping what is inside them (Chen et al. 2016).
    """

    conditions: dict[str, ConditionSpec]
    config: NetConfig | None = None
    checkpointing: bool = False

    def sites(self) -> list[str]:
        """The named places, in the order of the modules: blocks, skip connections, attention; see :mod:`reverie.nets.taps`."""
        from reverie.nets import taps

        return taps.sites(self)

    def listen(self, *names: str, count: int = 1) -> None:
        """Take further numbers of order 1 as conditions, each (B, count); weights that are trained stay, and do what they did.

        Args:
            names: of the conditions, such as "until", the second time of a flow map.
            count: numbers of each.

        Raises:
            InputError: when it has no place for them.
        """
        numbers = next((module for module in self.modules() if isinstance(module, Numbers)), None)
        if numbers is None:
            raise InputError(deaf(self, names))
        for name in names:
            numbers.add(name, count)
        self.conditions = {**self.conditions, **{name: Vector(count) for name in names}}

    def through(self, block: nn.Module, *args: Any) -> Any:
        """``block(*args)``, checkpointed where asked for."""
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(block, *args, use_reentrant=False)
        return block(*args)


def deaf(net: nn.Module, names: Iterable[str]) -> str:
    """Why a network cannot be told further numbers, and how it is opened for them."""
    return (
        f"the network {type(net).__name__} has no input for {', '.join(names)}. To open it, add reverie.nets.embeddings.Numbers to the "
        "vector that it makes of the time, copy its weights into that, and give it the method `listen` of reverie.nets.network.Network: "
        "the new input begins at zero, so that the network is what it was until it is trained"
    )


def conditions(
    classes: int | None = None, vector: int = 0, context: int = 0, length: int = 0, image: int = 0
) -> dict[str, ConditionSpec]:
    """What a network takes: "label", "vector", "text" (tokens) and "image", each where its size is given."""
    specs: dict[str, ConditionSpec] = {}
    if classes is not None:
        specs["label"] = Label(classes)
    if vector:
        specs["vector"] = Vector(vector)
    if context:
        specs["text"] = Tokens(context, length)
    if image:
        specs["image"] = Image(image)
    return specs


def tokens(cond: Cond | None, features: int, like: Tensor) -> Entry:
    """The "text" of a condition for the batch of ``like``; where it is absent a single token of zeros."""
    return entry_of(cond, "text", like.new_zeros(1, features), len(like))


def with_image(x: Tensor, cond: Cond | None, channels: int) -> Tensor:
    """``x`` with the channels of the "image" behind its own, zeros where it is absent (Saharia et al. 2022)."""
    if not channels:
        return x
    picture = entry_of(cond, "image", x.new_zeros(channels, *x.shape[2:]), len(x)).value
    return torch.cat([x, picture.to(x.dtype)], dim=1)
