"""The first stage of latent and token models: a space, the judge in whose features it may be compared, and its discriminator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from reverie import spaces
from reverie.core.batch import Dataset, DataSpec
from reverie.core.errors import InputError
from reverie.core.files import inside
from reverie.core.task import Given
from reverie.measure import judge as judges
from reverie.measure.judge import Judge
from reverie.spaces.latent import Latent
from reverie.spaces.tokenizing import Discriminator, Tokenizing

if TYPE_CHECKING:
    from reverie.families.token_config import AutoencoderConfig

JUDGE = "judge.safetensors"
"""Where a run keeps the judge of its perceptual loss."""


@dataclass(frozen=True)
class FirstStage:
    """A space, and the judge in whose features its pictures are compared, if any."""

    space: Latent
    judge: Judge | None


def keep_judge(source: str, given: Given) -> None:
    """Leave the judge of the perceptual loss in the run's folder.

    Raises:
        InputError: when there is no such judge, or it looks at other pictures.
    """
    path = inside(given.folder, JUDGE)
    if path.exists():
        return
    judge = given.load(source) if Path(source).expanduser().is_dir() else judges.load(source)
    if not isinstance(judge, Judge):
        raise InputError(f"{source} gives a {type(judge).__name__}, no judge: train one with `reverie train judge`")
    if (judge.channels, *judge.size) != given.spec.shape:
        raise InputError(
            f"{source} judges pictures of shape {(judge.channels, *judge.size)}, these are {given.spec.shape}"
        )
    judge.save(path)


def build(config: AutoencoderConfig, spec: DataSpec, seed: int, folder: Path | None) -> FirstStage:
    """The space, freshly initialised, with the judge that :func:`keep_judge` left in ``folder``.

    Raises:
        InputError: when the sizes do not fit the data.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        space = spaces.build(config.space, spec.shape[0])
    space.code_shape(spec.shape)
    judge = judges.load(folder / JUDGE) if config.perceptual is not None and folder is not None else None
    return FirstStage(space, judge)


def tokenizing(config: AutoencoderConfig, stage: FirstStage, data: Dataset, held_out: Dataset, seed: int) -> Tokenizing:
    """The task of the space, with the losses that are asked for."""
    discriminator = None
    if config.adversarial:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + 1)
            discriminator = Discriminator(data.spec.shape[0])
    judge = stage.judge
    return Tokenizing(
        stage.space,
        data,
        held_out,
        perceptual=None if judge is None else lambda x: judge.to(x.device).stages(x),
        discriminator=discriminator,
        adversarial=config.adversarial,
    )
