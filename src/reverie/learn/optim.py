"""Optimizers by name, and the learning rate as a function of the images seen."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from reverie.core.task import Optim
from reverie.learn import shards
from reverie.learn.config import TrainConfig
from reverie.learn.muon import Muon


@dataclass(frozen=True)
class Settings:
    """:class:`~reverie.core.task.Optim` with nothing left open."""

    optimizer: str
    lr: float
    adam_lr: float
    betas: tuple[float, float]
    weight_decay: float
    clip: float


def settings(config: TrainConfig, own: Optim = Optim()) -> Settings:
    """A player's own settings, and those of the recipe for what it leaves open."""
    names = [field.name for field in fields(Settings)]
    return Settings(**{n: getattr(config, n) if getattr(own, n) is None else getattr(own, n) for n in names})


def build(module: nn.Module, settings: Settings) -> Optimizer:
    """The optimizer of a module's weights that require a gradient."""
    if settings.optimizer == "muon":
        return Muon(module, settings.lr, settings.adam_lr, betas=settings.betas, weight_decay=settings.weight_decay)
    trained = [p for p in module.parameters() if p.requires_grad]
    return AdamW(trained, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay, fused=True)


def factor(config: TrainConfig, images: int) -> float:
    """The learning rate relative to its highest for the step that begins after ``images``: linear warm-up, then the decay.

    The step that begins at 0 already moves: it counts its own images as seen in the warm-up.
    """
    if images < config.warmup:
        return min(1.0, (images + config.batch) / config.warmup)
    done = (images - config.warmup) / max(1, config.images - config.warmup)
    if config.decay == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * done))
    return 1.0 - done if config.decay == "linear" else 1.0


def set_rate(optimizer: Optimizer, factor: float) -> float:
    """Scale every group's learning rate from the one it was made with; returns the first group's."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
    return optimizer.param_groups[0]["lr"]


def state(optimizers: Mapping[str, Optimizer]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What optimizers remember: tensors and JSON scalars, both addressed ``player/parameter/name``."""
    items = {
        f"{player}/{parameter}/{name}": value
        for player, optimizer in optimizers.items()
        for parameter, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }
    tensors = {key: value for key, value in items.items() if isinstance(value, Tensor)}
    return tensors, {key: value for key, value in items.items() if key not in tensors}


def load_state(optimizers: Mapping[str, Optimizer], tensors: Mapping[str, Tensor], scalars: Mapping[str, Any]) -> None:
    """Give optimizers back what :func:`state` took; settings such as the learning rate stay those they were made with."""
    states: dict[str, dict[int, dict[str, Any]]] = {player: {} for player in optimizers}
    for key, value in {**tensors, **scalars}.items():
        player, parameter, name = key.split("/")
        states[player].setdefault(int(parameter), {})[name] = value
    for player, optimizer in optimizers.items():
        weights = [p for group in optimizer.param_groups for p in group["params"]]
        for parameter, values in states[player].items():
            for name, value in values.items():
                if isinstance(value, Tensor) and value.shape == weights[parameter].shape:
                    values[name] = shards.part(value, weights[parameter])
        optimizer.load_state_dict({"state": states[player], "param_groups": optimizer.state_dict()["param_groups"]})
