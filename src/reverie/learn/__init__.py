"""Training: one loop that knows no method, and checkpoints that resume exactly. The protocol of what it trains is :mod:`reverie.core.task`.

Everything is imported on first use, so that reading a recipe needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reverie.core.batch import Batch
    from reverie.core.draws import Draws
    from reverie.core.task import Moment, Optim, Player, Task
    from reverie.learn.checkpoint import Checkpoints
    from reverie.learn.config import TrainConfig
    from reverie.learn.loop import train

_HOME = {
    "Batch": "reverie.core.batch",
    "Checkpoints": "reverie.learn.checkpoint",
    "Draws": "reverie.core.draws",
    "Moment": "reverie.core.task",
    "Optim": "reverie.core.task",
    "Player": "reverie.core.task",
    "Task": "reverie.core.task",
    "TrainConfig": "reverie.learn.config",
    "train": "reverie.learn.loop",
}

__all__ = ["Batch", "Checkpoints", "Draws", "Moment", "Optim", "Player", "Task", "TrainConfig", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
