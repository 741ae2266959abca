"""What models of tokens share: a network of tokens that is told a class, the space of the tokens, and how pictures are drawn."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from reverie.core.condition import Conditions
from reverie.core.conditioner import Conditioner
from reverie.core.generator import Generator
from reverie.core.task import Task
from reverie.families.token_net import TokenNet
from reverie.spaces.vq import VQ


class TokenModel(Generator):
    """Draws the tokens of a space.

    Args:
        net: what predicts.
        space: between pictures and tokens.
        shape: of a picture.
        conditions: empty, or a label.
        sample: how it draws; its ``scale`` is that of guidance.
        unlabelled: whether it also draws without a label.

    Attributes:
        conditioner: makes conditions of the names of classes.
    """

    def __init__(
        self, net: TokenNet, space: VQ, shape: tuple[int, ...], conditions: Conditions, sample: Any, unlabelled: bool
    ) -> None:
        self.net, self.space, self.shape, self.conditions, self.how = net, space, tuple(shape), conditions, sample
        self.unlabelled, self.conditioner = unlabelled, Conditioner(conditions)

    @abstractmethod
    def logits(self, tokens: Tensor, label: Tensor) -> Tensor:
        """What is predicted, guided towards the label (B,) by the scale."""

    @abstractmethod
    def learning(self) -> Task:
        """What trains the network on pictures under their labels, of which none is dropped."""

    def drawing(self, sample: Any) -> Self:
        """The same model, drawing otherwise."""
        other = copy.copy(self)
        other.how = sample
        return other

    @property
    def device(self) -> torch.device:
        return next(self.net.parameters()).device

    def settings(self) -> dict[str, Any]:
        return {**vars(self.how)}

    def modules(self) -> Mapping[str, nn.Module]:
        return {"net": self.net, "space": self.space}
