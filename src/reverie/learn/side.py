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
from reverie.core.task import Moment, Optim, Player, Task
from reverie.learn import optim, shards
from reverie.learn.config import TrainConfig
from reverie.learn.ema import Decay, Ema, power
from reverie.learn.runtime import Runtime


class Side:
    """A player with what stepping it takes.

    Args:
        name: of the player.
        player: what the task says of it.
        config: the settings for what the player leaves open.
        decay: of its moving average.

    Attributes:
        along: the players that its turn moves besides.
        turn: of a player that has one, the loss, with the gradients of all processes.
    """

    def __init__(self, name: str, player: Player, config: TrainConfig, decay: Decay) -> None:
        self.name, self.player = name, player
        self.along: list[str] = []
        self.turn: nn.Module | None = None
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
                    p.copy_(shards.part(weights[key], p))
        else:
            own = self.player.module.state_dict()
            self.player.module.load_state_dict({k: shards.part(v, own.get(k, v)) for k, v in weights.items()})
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


def sides(task: Task, config: TrainConfig, decay: Decay, runtime: Runtime) -> dict[str, Side]:
    """The players of a task, on the device, their gradients shared by the processes that have joined.

    Raises:
        InputError: for a player that goes along with one that there is not, an optimizer without weights to step, or one that cannot step
            them in parts.
    """
    players, along = task.players, dict[str, list[str]]()
    for name, player in players.items():
        player.module.to(runtime.device)
        if player.along is not None and player.along not in players:
            raise InputError(
                f"the player {name} goes along with {player.along!r}; the players are: {', '.join(players)}"
            )
        if player.along is not None:
            along.setdefault(player.along, []).append(name)
        if player.optim is not None and not any(p.requires_grad for p in player.module.parameters()):
            raise InputError(f"the player {name} is to be stepped, and none of its weights requires a gradient")
    leading = [name for name, player in players.items() if player.optim is not None and player.along is None]
    shard = config.shard and runtime.world > 1
    if shard and (
        len(leading) > 1
        or any(optim.settings(config, players[name].optim or Optim()).optimizer == "muon" for name in leading)
    ):
        raise InputError("train.shard is for tasks with one player that moves, by AdamW: leave it out")
    turns: dict[str, nn.Module] = {}
    for name in leading:
        modules = [players[other].module for other in (name, *along.get(name, []))]
        turns[name] = runtime.shared(Move(task, name, modules), shard)
    found = {name: Side(name, player, config, decay) for name, player in players.items()}
    for name, side in found.items():
        side.along, side.turn = along.get(name, []), turns.get(name)
    return found
