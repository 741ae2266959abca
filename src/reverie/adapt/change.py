"""A change of one weight: ΔW as a function of the base weight W, with few numbers that are trained."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Self

from torch import Tensor, nn

from reverie.core.errors import InputError, nearest


class Change(nn.Module, ABC):
    """ΔW of one weight; at first it is zero, to the bit.

    ``kind`` is its name in files.
    """

    kind: ClassVar[str]

    @abstractmethod
    def delta(self, weight: Tensor) -> Tensor:
        """ΔW in the shape of W, differentiable in what is trained."""

    def settings(self) -> dict[str, float]:
        """What a file says of it besides its tensors."""
        return {}

    @classmethod
    @abstractmethod
    def blank(cls, shape: tuple[int, ...], settings: Mapping[str, float]) -> Self:
        """One for a weight of a shape, to be filled from a file."""


def layers(net: nn.Module, pattern: str) -> dict[str, Tensor]:
    """The weights of the linear layers and convolutions whose path matches a regular expression, by name.

    Raises:
        InputError: when there are none; it names some that there are.
    """
    every = {path: m for path, m in net.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    try:
        found = {f"{path}.weight": module.weight for path, module in every.items() if re.search(pattern, path)}
    except re.error as error:
        raise InputError(f"the layers {pattern!r} are no regular expression: {error}") from error
    if not found:
        some = ", ".join(list(every)[:: max(1, len(every) // 8)])
        raise InputError(
            f"no layer matches {pattern!r}; there is, among {len(every)}: {some}.{nearest(pattern, every)} "
            "A point matches any letter, '' matches all"
        )
    return found
