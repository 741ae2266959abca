"""What models of tokens share: a network of tokens that is told a class or a text, the space of the tokens, and how pictures are drawn."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from reverie.core.batch import DataSpec
from reverie.core.condition import Cond
from reverie.core.task import Task
from reverie.diffusion.texts import Texts
from reverie.families.drawing import Listening
from reverie.families.token_net import TokenNet
from reverie.spaces.vq import VQ


class TokenModel(Listening):
    """Draws the tokens of a space.

    Args:
        net: what predicts.
        space: between pictures and tokens.
        spec: of the data.
        sample: how it draws; its ``scale`` is that of guidance.
        unlabelled: whether it also draws without a label or a text.
        texts: its text encoders, for data with captions.
    """

    def __init__(
        self, net: TokenNet, space: VQ, spec: DataSpec, sample: Any, unlabelled: bool = True, texts: Texts | None = None
    ) -> None:
        super().__init__(spec.conditions, spec.classes, texts, unlabelled)
        self.net, self.space, self.spec, self.shape, self.how = net, space, spec, spec.shape, sample

    @abstractmethod
    def logits(self, tokens: Tensor, cond: Cond | None) -> Tensor:
        """What is predicted, guided towards what B samples are told by the scale."""

    @abstractmethod
    def learning(self) -> Task:
        """What trains the network on pictures under their labels or texts, of which none is dropped."""

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
        return {"net": self.net, "space": self.space, **self.modules_beside()}
