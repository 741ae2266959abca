"""The space of a run: fitted or trained on the run's data before the denoiser, kept in ``space.safetensors``."""

import sys
from pathlib import Path

import torch
from torch import nn

from reverie import spaces
from reverie.core.errors import RunError
from reverie.core.files import inside
from reverie.core.space import Identity, Space
from reverie.data import ImageSet
from reverie.learn import optim
from reverie.learn.config import TrainConfig
from reverie.learn.feed import feed
from reverie.learn.loop import train
from reverie.learn.tokenizing import Stages, Tokenizing
from reverie.recipes.recipe import Recipe

FILE = "space.safetensors"
HELD_OUT = 256


def read(recipe: Recipe, folder: Path) -> Space:
    """The space of a trained run; pixels have no file."""
    return Identity() if recipe.space.name == "pixels" else spaces.load(folder / FILE)


def blank(recipe: Recipe) -> Space:
    """The space of a resolved recipe before it has seen data: it knows the shape of its codes.

    Raises:
        InputError: when the patch or the number of dimensions does not fit the data.
    """
    size, channels = recipe.data.size, recipe.data.channels
    assert size is not None and channels is not None
    if recipe.space.name == "pixels":
        return Identity()
    space = spaces.build(recipe.space, channels)
    space.shape((channels, size, size))
    return space


def prepare(recipe: Recipe, images: ImageSet, held_out: ImageSet, folder: Path) -> Space:
    """The space of a resolved recipe, made from its data unless the run's folder has it already.

    Raises:
        RunError: when its training was interrupted; the same command goes on with it.
    """
    config = recipe.space
    if config.name == "pixels" or (folder / FILE).exists():
        return read(recipe, folder)
    if config.name == "pca":
        space: spaces.Latent = spaces.PatchPCA.fit(images, config.patch, config.dims)
    else:
        with torch.random.fork_rng():
            torch.manual_seed(recipe.seed)
            space = spaces.build(config, images.channels)
        fit(space, images, held_out, config.images, inside(folder, "space"), recipe.seed, recipe.train.device)
    spaces.save(space, inside(folder, FILE))
    return spaces.load(folder / FILE)


def fit(
    space: spaces.Latent,
    images: ImageSet,
    held_out: ImageSet,
    count: int,
    folder: Path,
    seed: int,
    device: str = "auto",
    perceptual: Stages | None = None,
    critic: nn.Module | None = None,
) -> None:
    """Train a space on ``count`` images, then set the scale of its codes from (at most 5,000 of) the data.

    Raises:
        RunError: when it was interrupted.
    """
    config = TrainConfig(
        images=count,
        batch=64,
        lr=3e-3,
        weight_decay=0.0,
        warmup=min(3_200, count),
        log_every=max(1, count // 50),
        validate_every=count,
        sample_every=count,
        save_every=max(1, count // 4),
        device=device,
    )
    print(f"learning the space {space.name}: {count:,} images", file=sys.stderr)
    some = held_out.batch(range(min(HELD_OUT, len(held_out))))[0] if len(held_out) else None
    opponent = None if critic is None else (critic, optim.build(critic, config))
    task = Tokenizing(space, optim.build(space, config), some, perceptual=perceptual, critic=opponent)
    seen = train(task, feed(images, seed, labels=False), config, folder, seed=seed)
    if seen < count:
        raise RunError(f"the space was interrupted after {seen:,} of {count:,} images; the same command goes on")
    space.eval().requires_grad_(False)
    space.normalise(images.batch(range(min(5_000, len(images))))[0])
