"""Pictures for a run to look at, in the size and colours its network takes."""

from pathlib import Path

import torch
from torch import Tensor

from reverie import data
from reverie.core.errors import InputError
from reverie.data import ImageSet, pixels
from reverie.recipes.recipe import Recipe


def splits(recipe: Recipe, name: str | None = None) -> tuple[ImageSet, ImageSet]:
    """The training and the held-out pictures of a data set, of the run's own by default.

    Raises:
        InputError: when there is no such data.
    """
    config = recipe.data
    train, test = (
        data.load(name or config.name, split, size=config.size, channels=config.channels, fit=config.fit)
        for split in ("train", "test")
    )
    return train, test


def picture(path: Path, recipe: Recipe) -> Tensor:
    """A file as the model takes it, (1, C, H, W) in [−1, 1].

    Raises:
        InputError: when it cannot be read.
    """
    assert recipe.data.size is not None and recipe.data.channels is not None
    try:
        array = pixels.read(path, recipe.data.size, recipe.data.channels, recipe.data.fit)
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a picture: {error}") from error
    return torch.tensor(array)[None].float().div(127.5).sub(1.0)
