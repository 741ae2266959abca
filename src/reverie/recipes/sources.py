"""The data of a recipe, and pictures for a run to look at, in the size and colours its network takes."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from reverie import data
from reverie.core.batch import DataSpec
from reverie.core.condition import Conditions, Label
from reverie.core.errors import InputError
from reverie.data import ImageSet, pixels
from reverie.data.loading import Split
from reverie.recipes.recipe import DataConfig, Recipe


def load(recipe: Recipe, split: Split = "train") -> ImageSet:
    """The data of a recipe, without labels if it wants none.

    Raises:
        InputError: when there is none.
    """
    config = recipe.data
    images = data.load(config.name, split, size=config.size, channels=config.channels, fit=config.fit)
    return images if config.labels else replace(images, labels=None, classes=[])


def resolve(recipe: Recipe, images: ImageSet) -> Recipe:
    """The recipe with what was left open filled in from its data."""
    name = recipe.data.name if recipe.data.name in data.names() else str(Path(recipe.data.name).expanduser().absolute())
    config = replace(
        recipe.data,
        name=name,
        size=images.size,
        channels=images.channels,
        classes=None if images.labels is None else tuple(images.classes),
    )
    return replace(recipe, name=recipe.name or Path(name).name, data=config)


def spec(config: DataConfig) -> DataSpec:
    """What a resolved recipe says of its data.

    Raises:
        InputError: when it does not.
    """
    if config.size is None or config.channels is None:
        raise InputError("the recipe does not say the size and channels of its data: resolve it first")
    classes = config.classes or ()
    conditions: Conditions = {"label": Label(len(classes))} if classes else {}
    return DataSpec((config.channels, config.size, config.size), conditions, classes, Path(config.name).name)


def splits(recipe: Recipe, name: str | None = None) -> tuple[ImageSet, ImageSet]:
    """The training and the held-out pictures of a data set, of the run's own by default, with their labels.

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
