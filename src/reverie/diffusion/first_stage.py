"""What is trained before a model: of latent and token models a space, with the features in which it may compare pictures and its
discriminator."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from reverie import spaces
from reverie.core.batch import Dataset, DataSpec
from reverie.core.errors import InputError, RunError
from reverie.core.files import inside
from reverie.core.task import Given, Task
from reverie.data import Loader
from reverie.learn.config import TrainConfig
from reverie.learn.loop import train
from reverie.measure import judge as judges
from reverie.measure.extract import EfficientNetLite0
from reverie.measure.judge import Judge
from reverie.spaces.config import SpaceConfig
from reverie.spaces.latent import Latent
from reverie.spaces.tokenizing import Discriminator, Tokenizing

EFFICIENTNET = "efficientnet-lite0"
"""The extractor that is no judge, by the name under which `reverie prefetch` has it."""
JUDGE = "judge.safetensors"
"""Where a run keeps the judge of its perceptual loss."""


@dataclass(frozen=True)
class FirstStage:
    """A space, and the network in whose features its pictures are compared, if any."""

    space: Latent
    looks: Judge | EfficientNetLite0 | None


def keep_judge(config: SpaceConfig, given: Given) -> None:
    """Leave the judge of the perceptual loss, if it has one, in the run's folder.

    Raises:
        InputError: when there is no such judge, or it looks at other pictures.
    """
    source, path = config.perceptual, inside(given.folder, JUDGE)
    if source is None or source == EFFICIENTNET or path.exists():
        return
    judge = given.load(source) if Path(source).expanduser().is_dir() else judges.load(source)
    if not isinstance(judge, Judge):
        raise InputError(f"{source} gives a {type(judge).__name__}, no judge: train one with `reverie train judge`")
    if (judge.channels, *judge.size) != given.spec.shape:
        raise InputError(
            f"{source} judges pictures of shape {(judge.channels, *judge.size)}, these are {given.spec.shape}: --perceptual {EFFICIENTNET} "
            "looks at pictures of any size"
        )
    judge.save(path)


def build(config: SpaceConfig, spec: DataSpec, seed: int, folder: Path | None) -> FirstStage:
    """The space, freshly initialised, with EfficientNet-Lite0 or the judge that :func:`keep_judge` left in ``folder``; without one, none.

    Raises:
        InputError: when the sizes do not fit the data, or EfficientNet-Lite0 has not been fetched.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        space = spaces.build(config, spec.shape[0])
    space.code_shape(spec.shape)
    if config.perceptual is None or folder is None:
        return FirstStage(space, None)
    return FirstStage(space, EfficientNetLite0() if config.perceptual == EFFICIENTNET else judges.load(folder / JUDGE))


def tokenizing(config: SpaceConfig, stage: FirstStage, data: Dataset, held_out: Dataset, seed: int) -> Tokenizing:
    """The task of the space, with the losses that are asked for."""
    discriminator = None
    if config.adversarial:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + 1)
            discriminator = Discriminator(data.spec.shape[0])
    looks = stage.looks
    return Tokenizing(
        stage.space,
        data,
        held_out,
        perceptual=None if looks is None else lambda x: looks.to(x.device).stages(x),
        discriminator=discriminator,
        adversarial=config.adversarial,
    )


def learned(task: Task, loader: Loader, config: TrainConfig, folder: Path, seed: int, what: str) -> None:
    """Train to the end, or go on with it.

    Args:
        task: what to train.
        loader: of its data.
        config: how.
        folder: of this training.
        seed: of all randomness.
        what: is learned, for people.

    Raises:
        RunError: when it was interrupted.
    """
    print(f"learning {what}: {config.images:,} images", file=sys.stderr)
    seen = train(task, loader, config, folder, seed=seed)
    if seen < config.images:
        raise RunError(
            f"learning {what} was interrupted after {seen:,} of {config.images:,} images; the same command goes on"
        )
