"""Training: one loop that knows no method, tasks that are methods, checkpoints that resume exactly.

Everything is imported on first use, so that reading a recipe needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reverie.learn.checkpoint import Checkpoints
    from reverie.learn.config import TrainConfig
    from reverie.learn.denoising import Denoising
    from reverie.learn.draws import Draws
    from reverie.learn.loop import train
    from reverie.learn.task import Batch, Moment, Player, Task

_HOME = {
    "Batch": "task",
    "Checkpoints": "checkpoint",
    "Denoising": "denoising",
    "Draws": "draws",
    "Moment": "task",
    "Player": "task",
    "Task": "task",
    "TrainConfig": "config",
    "train": "loop",
}

__all__ = ["Batch", "Checkpoints", "Denoising", "Draws", "Moment", "Player", "Task", "TrainConfig", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"reverie.learn.{_HOME[name]}"), name)
