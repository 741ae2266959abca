"""Whoever wants to be told of a training: a tracker, an evaluator, a rule to stop."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from reverie.core.image_files import open_image
from reverie.core.task import Moment

if TYPE_CHECKING:
    from reverie.learn.checkpoint import Checkpoint


class Observer:
    """Told of what happens in the process that writes; a subclass overrides what it wants to hear. Whatever it raises ends training."""

    def begun(self, folder: Path, images: int) -> None:
        """Training begins, or goes on after so many images, in a folder."""

    def stepped(self, now: Moment) -> bool | None:
        """A step was made; True ends training after it, with a checkpoint, as Ctrl-C does."""

    def logged(self, images: int, values: Mapping[str, float]) -> None:
        """Figures by name: ``loss``, its parts, ``grad_norm``, ``lr``, ``images_per_second``; those of validation are ``validation/…``."""

    def shown(self, images: int, path: Path) -> None:
        """A picture of samples was written."""

    def saved(self, checkpoint: Checkpoint) -> None:
        """A checkpoint was written; it is whole."""

    def ended(self, images: int) -> None:
        """Training ends, however it does, after so many images."""


class TensorBoard(Observer):
    """Figures and pictures for TensorBoard, in the folder ``tensorboard`` of the run; needs ``pip install reverie[tensorboard]``."""

    def begun(self, folder: Path, images: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=images + 1)

    def logged(self, images: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, images)

    def shown(self, images: int, path: Path) -> None:
        self.writer.add_image("samples", np.asarray(open_image(path, "RGB")), images, dataformats="HWC")

    def ended(self, images: int) -> None:
        self.writer.close()
