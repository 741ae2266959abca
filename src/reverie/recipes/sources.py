"""The data of a recipe, and pictures for a run to look at, in the size and colours its network takes."""

import hashlib
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from reverie import data
from reverie.core import image_files
from reverie.core.batch import DataSpec
from reverie.core.condition import Conditions, Label, Text
from reverie.core.condition import Image as Shown
from reverie.core.errors import InputError
from reverie.core.text import shown
from reverie.data import ImageSet, layouts, pixels
from reverie.data.hub import SCHEME
from reverie.data.loading import Split, existing
from reverie.data.stored import title
from reverie.recipes.recipe import DataConfig, Recipe


def load(recipe: Recipe, split: Split = "train") -> ImageSet:
    """The data of a recipe, without labels if it wants none, with captions and maps if it wants them.

    Raises:
        InputError: when there is none, there are no captions in it, or a picture has no map.
    """
    config = recipe.data
    images = data.load(config.name, split, size=config.size, channels=config.channels, fit=config.fit)
    if config.maps is not None:
        pictures = Path(config.name) if config.name in data.names() else existing(config.name)
        paths = images.columns.get("path")
        images = images.with_layout(layouts.read(Path(config.maps), pictures, paths, images.size, config.fit))
    if config.captions and (len(images) or split == "train"):
        return images.with_captions(config.templates, config.caption_length)
    return images if config.labels and not config.captions else images.without_labels()


def full_name(name: str) -> str:
    """What a resolved recipe calls a data set: its name, or the absolute path of a folder."""
    return name if name in data.names() or name.startswith(SCHEME) else str(Path(name).expanduser().absolute())


def resolve(recipe: Recipe, images: ImageSet, held_out: ImageSet) -> Recipe:
    """The recipe with what was left open filled in from its data, and what the data held."""
    contents = hashlib.sha256(f"{images.fingerprint} {held_out.fingerprint}".encode()).hexdigest()
    name = full_name(recipe.data.name)
    config = replace(
        recipe.data,
        name=name,
        size=images.size,
        channels=images.channels,
        classes=None if images.labels is None else tuple(images.classes),
        caption_length=recipe.data.caption_length if images.captions is None else images.captions.length,
        maps=None if recipe.data.maps is None else str(Path(recipe.data.maps).expanduser().absolute()),
        map_classes=None if images.layout is None else images.layout.classes,
        contents=f"{len(images) + len(held_out):,} pictures {contents[:32]}",
        codes=None if recipe.data.codes is None else str(Path(recipe.data.codes).expanduser().absolute()),
    )
    init = None if recipe.init is None else str(Path(recipe.init).expanduser().absolute())
    stem, task = title(Path(name)), recipe.task.name
    named = recipe.name or (stem if task == "denoising" else f"{stem}-{task}")
    return replace(recipe, name=named, data=config, init=init)


def spec(config: DataConfig) -> DataSpec:
    """What a resolved recipe says of its data.

    Raises:
        InputError: when it does not.
    """
    if config.size is None or config.channels is None:
        raise InputError("the recipe does not say the size and channels of its data: resolve it first")
    classes = config.classes or ()
    conditions: Conditions = {"label": Label(len(classes))} if classes else {}
    if config.captions and config.caption_length is not None:
        conditions = {**conditions, "text": Text(config.caption_length)}
    if config.map_classes is not None:
        conditions = {**conditions, "image": Shown(len(config.map_classes) or 3)}
    return DataSpec((config.channels, *pixels.sides(config.size)), conditions, classes, title(Path(config.name)))


def splits(recipe: Recipe, name: str | None = None) -> tuple[ImageSet, ImageSet]:
    """The training and the held-out pictures of a data set, of the run's own by default, with their labels.

    Raises:
        InputError: when there is no such data.
    """
    config = recipe.data
    train, test = (
        data.load(
            config.name if name is None else name, split, size=config.size, channels=config.channels, fit=config.fit
        )
        for split in ("train", "test")
    )
    return train, test


def other(recipe: Recipe, name: str) -> ImageSet:
    """All pictures of a data set, brought to the size and colours of a resolved recipe; of the recipe's own data the held-out ones.

    Raises:
        InputError: when there is no such data.
    """
    config = recipe.data
    split: Split = "test" if full_name(name) == config.name else "all"
    return data.load(name, split, size=config.size, channels=config.channels, fit=config.fit)


def picture(path: Path, recipe: Recipe, size: tuple[int, int] | None = None, channels: int | None = None) -> Tensor:
    """A file as the model takes it, or of another size or number of channels, (1, C, H, W) in [−1, 1].

    Raises:
        InputError: when it cannot be read.
    """
    config = recipe.data
    assert config.size is not None and config.channels is not None
    array = pixels.read(path, size or config.size, channels or config.channels, config.fit)
    return torch.tensor(array)[None].float().div(127.5).sub(1.0)


def hint(path: Path, recipe: Recipe, channels: int) -> Tensor:
    """A map of exactly the size of the model's pictures, (1, channels, H, W) in [0, 1], 1 where it is white.

    Raises:
        InputError: when it cannot be read, or is of another size.
    """
    assert recipe.data.size is not None
    height, width = pixels.sides(recipe.data.size)
    if (found := image_files.open_image(path).size) != (width, height):
        raise InputError(
            f"the hint {shown(path)} is {found[0]}x{found[1]}, the model's pictures are {width}x{height}: draw it of their size"
        )
    return 0.5 * (picture(path, recipe, channels=channels) + 1.0)


def known(
    path: Path, of: Path | None, recipe: Recipe, what: str = "known", size: tuple[int, int] | None = None
) -> Tensor:
    """The mask of a picture as it is seen, brought to the model's size as the picture is: (1, 1, H, W), 1 where it is white.

    Args:
        what: white says of a pixel, in words.
        size: height and width, where the model's are not those of its data.

    Raises:
        InputError: when it cannot be read, is not of the size of the picture ``of``, or leaves nothing known or nothing unknown.
    """
    assert recipe.data.size is not None
    mask = pixels.read_mask(path, of, what, size or recipe.data.size, recipe.data.fit)
    return torch.from_numpy(mask)[None, None].float()
