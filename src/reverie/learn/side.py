"""A player while it is trained: which of its weights move, its optimizer, its moving average, and what checkpoints hold of it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from reverie.core.batch import Batch
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.task import Moment, Player, Task
from reverie.learn import optim
from reverie.learn.config import TrainConfig
from reverie.learn.ema import Decay, Ema, power


class Side:
    """A player with what stepping it takes.

    Args:
        name: of the player.
        player: what the task says of it.
        config: the settings for what the player leaves open.
        decay: of its moving average.
    """

    def __init__(self, name: str, player: Player, config: TrainConfig, decay: Decay) -> None:
        self.name, self.player = name, player
        self.along: list[str] = []
        self.names = (
            [key for key, p in player.module.named_parameters() if p.requires_grad] if player.optim is not None else []
        )
        self.trained: list[nn.Parameter] = [player.module.get_parameter(key) for key in self.names]
        self.optimizer: Optimizer | None = None
        self.clip = config.clip
        if player.optim is not None:
            settings = optim.settings(config, player.optim)
            self.optimizer, self.clip = optim.build(player.module, settings), settings.clip
        averaged = player.average and bool(self.trained)
        self.ema = Ema(player.module, decay, self.names) if averaged else None
        kept = averaged and player.saved != "none"
        self.profiles = {std: Ema(player.module, power(std), self.names) for std in config.ema_profiles if kept}

    def average(self, before: int, after: int) -> None:
        """Take the weights after the step that saw images ``before … after`` into all averages."""
        for ema in (self.ema, *self.profiles.values()):
            if ema is not None:
                ema.update(before, after)

    def profiled(self) -> dict[str, Tensor]:
        """The averages of all widths, each name led by ``std/player.``"""
        return {
            f"{std:g}/{self.name}.{key}": value
            for std, ema in self.profiles.items()
            for key, value in ema.average.items()
        }

    def load_profiles(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what :meth:`profiled` gave; what a checkpoint has none of is not kept any more."""
        lead = {std: f"{std:g}/{self.name}." for std in self.profiles}
        self.profiles = {
            std: ema for std, ema in self.profiles.items() if all(lead[std] + key in tensors for key in ema.average)
        }
        for std, ema in self.profiles.items():
            ema.load_state_dict({key: tensors[lead[std] + key] for key in ema.average})

    def begin(self, factor: float) -> float:
        """Forget the last gradient and set the rate; returns it."""
        if self.optimizer is None:
            return 0.0
        self.optimizer.zero_grad(set_to_none=True)
        return optim.set_rate(self.optimizer, factor)

    def step(self) -> None:
        if self.optimizer is not None:
            self.optimizer.step()

    @contextmanager
    def resting(self) -> Iterator[None]:
        """In evaluation mode with its averaged weights, if it has any."""
        if self.ema is not None:
            with self.ema.applied():
                yield
            return
        self.player.module.eval()
        try:
            yield
        finally:
            self.player.module.train(self.player.train)

    def state(self, average: bool) -> dict[str, Tensor]:
        """What a checkpoint holds, each name led by the player's: the weights or their average."""
        if self.player.saved == "none":
            return {}
        state = self.ema.state_dict() if average and self.ema is not None else self.player.module.state_dict()
        kept = state if self.player.saved == "all" else {key: state[key] for key in self.names}
        return {f"{self.name}.{key}": value for key, value in kept.items()}

    def load_state(self, weights: Mapping[str, Tensor], averages: Mapping[str, Tensor]) -> None:
        """Take back what :meth:`state` gave.

        Raises:
            RuntimeError: when it is of another module.
        """
        if self.player.saved == "none":
            return
        if self.player.saved == "trained":
            if set(weights) != set(self.names):
                raise RuntimeError(f"the player {self.name}:\n{sorted(set(weights) ^ set(self.names))[0]}")
            with torch.no_grad():
                for key, p in zip(self.names, self.trained, strict=True):
                    p.copy_(weights[key])
        else:
            self.player.module.load_state_dict(weights)
        if self.ema is not None:
            self.ema.load_state_dict(averages)


class Move(nn.Module):
    """The loss of a player as a module of the weights that its turn moves.

    Processes share gradients of what goes through this module. So a loss does with its networks what it likes: calls parts of them, hooks
    them, differentiates them forward (:mod:`reverie.core.jvp`), and their gradients are those of all processes.

    Args:
        task: of the player.
        name: the player.
        modules: of the players that move.
    """

    def __init__(self, task: Task, name: str, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.loss, self.moved = partial(task.loss, name), nn.ModuleList(modules)

    def forward(self, batch: Batch, rng: Draws, now: Moment) -> dict[str, Tensor]:
        return self.loss(batch, rng, now)


def sides(task: Task, config: TrainConfig, decay: Decay, device: torch.device) -> dict[str, Side]:
    """The players of a task, moved to the device.

    Raises:
        InputError: for a player that goes along with one that there is not, or an optimizer without weights to step.
    """
    for player in task.players.values():
        player.module.to(device)
    found = {name: Side(name, player, config, decay) for name, player in task.players.items()}
    for name, side in found.items():
        along = side.player.along
        if along is not None and along not in found:
            raise InputError(f"the player {name} goes along with {along!r}; the players are: {', '.join(found)}")
        if along is not None:
            found[along].along.append(name)
        if side.optimizer is not None and not side.trained:
            raise InputError(f"the player {name} is to be stepped, and none of its weights requires a gradient")
    return found
