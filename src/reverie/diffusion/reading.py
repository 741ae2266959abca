"""Our own text encoder learns to read before a network listens to it: which caption belongs to which picture.

Radford et al. 2021, "Learning transferable visual models from natural language supervision" (CLIP). Latent and cascaded models are told by
encoders that were trained so (Rombach et al. 2022, Ramesh et al. 2022); here it is the run's own captions and pictures that teach it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch

from reverie.core import files
from reverie.core.files import inside
from reverie.data import Loader
from reverie.data.captions import of
from reverie.diffusion.first_stage import learned
from reverie.learn.config import TrainConfig
from reverie.measure.config import TowersConfig
from reverie.measure.towers import Pairing
from reverie.nets.config import BYTES, TextConfig

if TYPE_CHECKING:
    from pathlib import Path

    from reverie.core.task import Given
    from reverie.nets.text import TextEncoder

READING = "reading"
"""In a run's folder, that of this training."""
FILE = "reading.safetensors"
"""Where a run keeps what its text encoder had learned before."""
PICTURES = replace(TowersConfig().encoder, width=16)
"""Who looks at the pictures meanwhile; only what is read is kept."""


class Lesson(NamedTuple):
    """What teaches an encoder to read, from the beginning: the task, its data, and how it is trained."""

    task: Pairing
    loader: Loader
    config: TrainConfig


def lesson(config: TextConfig, given: Given) -> Lesson | None:
    """Of the encoder of a run; None where it is not to learn before, or no caption is told."""
    if config.images == 0 or BYTES not in config.encoders or of(given.data) is None:
        return None
    towers = TowersConfig(encoder=PICTURES, width=config.width, depth=config.depth, heads=config.heads)
    data, held_out = towers.examples(given.data, given.held_out, given.folder, given.folder)
    task = towers.task(towers.build(given.spec, given.seed), data, held_out, None, given.seed)
    how = TrainConfig(
        images=config.images,
        batch=128,
        lr=1e-3,
        weight_decay=0.1,
        warmup=min(3_000, config.images),
        decay="linear",
        ema_std=0.05,
        log_every=max(1, config.images // 50),
        validate_every=config.images,
        sample_every=config.images,
        save_every=max(1, config.images // 4),
        device=given.device,
    )
    return Lesson(task, Loader(data, given.seed), how)


def prepare_reading(config: TextConfig, given: Given) -> None:
    """Leave what the text encoder has learned in the run's folder, unless it is there.

    Raises:
        RunError: when its training was interrupted; the same command goes on with it.
    """
    path = inside(given.folder, FILE)
    if path.exists() or (found := lesson(config, given)) is None:
        return
    learned(*found, inside(given.folder, READING), given.seed, "to read its captions")
    files.write_tensors(path, found.task.towers.text.state_dict(), {"what": "text encoder"})


def read_before(encoder: TextEncoder, folder: Path) -> None:
    """Give a fresh encoder what :func:`prepare_reading` left in the run's folder, if there is anything."""
    if (path := folder / FILE).exists():
        with torch.no_grad():
            encoder.load_state_dict(files.read_tensors(path))
