"""What the loop trains: a :class:`Task` of named players. A method is a task; the loop knows none."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn
from torch.optim import Optimizer

from reverie.core.condition import Cond
from reverie.learn.draws import Draws


class Batch(NamedTuple):
    """Images (B, C, H, W) in [−1, 1] and what they are conditioned on."""

    images: Tensor
    cond: Cond | None = None


class Moment(NamedTuple):
    """How far a run has come: optimizer steps done, images seen, images in all."""

    step: int
    images: int
    total: int

    @property
    def fraction(self) -> float:
        return self.images / self.total


@dataclass(frozen=True)
class Player:
    """One side of a task: a generator, a discriminator, a teacher.

    Args:
        module: its weights; saved with every checkpoint.
        optimizer: steps them; None for weights that only :meth:`Task.after_step` changes (a moving teacher).
        every: it steps once in this many steps of the loop.
        average: whether a moving average of the weights is kept.
    """

    module: nn.Module
    optimizer: Optimizer | None = None
    every: int = 1
    average: bool = True


class Task(ABC):
    """A method. :meth:`loss` is all it must give; a player's loss is the sum of the means of its parts."""

    players: Mapping[str, Player]

    @abstractmethod
    def loss(self, player: str, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        """The named parts of a player's loss, each of shape () or (B,). All randomness comes from ``rng``."""

    def after_step(self, progress: Moment) -> None:  # noqa: B027 - most methods need nothing here
        """Called when all players have stepped: moving teachers, prototypes, curricula."""

    def describe(self, batch: Batch, rng: Draws, progress: Moment) -> dict[str, Tensor]:
        """What distinguishes the samples of a batch besides their images, each (B,): named when a loss is not finite."""
        return {}

    def validate(self) -> dict[str, float | list[float]]:
        """Measures on held-out data, for the log. The averaged weights are in place."""
        return {}

    def preview(self) -> tuple[Tensor, int] | None:
        """Images (N, C, H, W) in [−1, 1] that show the state of training, and how many go in a row. The averaged weights are in place."""
        return None
