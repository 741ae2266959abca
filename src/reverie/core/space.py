"""Spaces: between data and what is diffused."""

from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Tensor


class Space(ABC):
    """:meth:`encode` takes data (B, …), pictures in [−1, 1], to the codes that are diffused, :meth:`decode` back.

    Both give what they are given: its device, and its dtype whatever the space's own is.

    Attributes:
        offset: the constant that is taken off of every number of a code, in its units; 0 where there is none.
    """

    offset: float = 0.0

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor: ...
    @abstractmethod
    def decode(self, z: Tensor) -> Tensor: ...

    @abstractmethod
    def code_shape(self, data: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the code of one sample of data.

        Raises:
            InputError: when the space does not take data of this shape.
        """

    @abstractmethod
    def data_shape(self, code: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the data of one code: the opposite of :meth:`code_shape`."""

    @abstractmethod
    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The space itself, its weights moved and cast."""


class Identity(Space):
    """Diffusion on the data itself."""

    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, z: Tensor) -> Tensor:
        return z

    def code_shape(self, data: tuple[int, ...]) -> tuple[int, ...]:
        return data

    def data_shape(self, code: tuple[int, ...]) -> tuple[int, ...]:
        return code

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        return self
