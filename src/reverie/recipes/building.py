"""From a recipe to what it describes: data, denoiser, task, sampler."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from reverie import data, guide, nets
from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser, NetDenoiser
from reverie.core.errors import InputError, unknown
from reverie.core.paths import EDM, SubVP, Table, Trigonometric
from reverie.core.schedules import VE, VP, Cosine, Flow, Schedule
from reverie.core.space import Identity, Space
from reverie.data import ImageSet
from reverie.data.loading import Split
from reverie.guide.classifier import NetClassifier
from reverie.learn import optim
from reverie.learn.classifying import Classifying
from reverie.learn.denoising import Denoising
from reverie.learn.task import Batch
from reverie.learn.times import LogitNormal, LogSNR, TimeSampler, Uniform
from reverie.nets.config import DiTConfig, EncoderConfig, UNetConfig
from reverie.nets.prior import Prior
from reverie.recipes.recipe import DenoisingConfig, GridName, Recipe, SampleConfig
from reverie.solve import auto, grids, sample
from reverie.spaces.latent import Latent

SCHEDULES: dict[str, Callable[[], Schedule]] = {
    "flow": Flow,
    "cosine": Cosine,
    "vp": VP,
    "subvp": SubVP,
    "ve": VE,
    "edm": EDM,
    "trigonometric": Trigonometric,
    "ddpm": Table.linear,
}
HELD_OUT = 512
"""Held-out images that training validates on."""
FITTED = 20_000
"""Training images that a prior is fitted to."""


def load_data(recipe: Recipe, split: Split = "train") -> ImageSet:
    """The data of a recipe.

    Raises:
        InputError: when there is none.
    """
    config = recipe.data
    return data.load(config.name, split, size=config.size, channels=config.channels, fit=config.fit)


def resolve(recipe: Recipe, images: ImageSet) -> Recipe:
    """The recipe with what was left open filled in from its data."""
    name = recipe.data.name if recipe.data.name in data.names() else str(Path(recipe.data.name).expanduser().absolute())
    labelled = recipe.data.labels and images.labels is not None
    config = replace(
        recipe.data,
        name=name,
        size=images.size,
        channels=images.channels,
        classes=tuple(images.classes) if labelled else None,
    )
    return replace(recipe, name=recipe.name or Path(name).name, data=config)


def build(recipe: Recipe, space: Space | None = None) -> NetDenoiser | NetClassifier:
    """What a resolved recipe trains, in its space, its network freshly initialised by the recipe's seed.

    Raises:
        InputError: when the network cannot take the size of the data, or a classifier has no classes to learn.
    """
    net, shape = _network(recipe, space)
    config = recipe.denoising
    schedule = SCHEDULES[config.schedule]()
    space = Identity() if space is None else space
    if isinstance(recipe.net, EncoderConfig):
        assert recipe.data.classes is not None
        return NetClassifier(net, schedule, len(recipe.data.classes), shape=shape, time=config.time, space=space)
    return NetDenoiser(net, schedule, config.kind, shape=shape, time=config.time, data_std=config.data_std, space=space)


def build_denoiser(recipe: Recipe, space: Space | None = None) -> NetDenoiser:
    """:func:`build` of a recipe that draws.

    Raises:
        InputError: also for the recipe of a classifier.
    """
    built = build(recipe, space)
    if isinstance(built, NetClassifier):
        raise InputError(
            "this is a classifier of noisy pictures, which draws none: guide another run with it, see reverie.guide.classifier"
        )
    return built


def _network(recipe: Recipe, space: Space | None) -> tuple[nn.Module, tuple[int, ...]]:
    """The network of a resolved recipe, and the shape of what it reads."""
    size, channels, classes = recipe.data.size, recipe.data.channels, recipe.data.classes
    if size is None or channels is None:
        raise InputError("the recipe does not say the size and channels of its data: resolve it first")
    shape = space.shape((channels, size, size)) if isinstance(space, Latent) else (channels, size, size)
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        number = None if classes is None else len(classes)
        if number is None and isinstance(recipe.net, EncoderConfig):
            raise InputError("a classifier learns from labels: use data with classes, and data.labels true")
        config, rank = recipe.net, recipe.denoising.prior
        if rank is not None:
            if not isinstance(config, DiTConfig | UNetConfig):
                raise InputError(
                    "denoising.prior needs a network that takes a picture as condition: use net dit or unet"
                )
            config = replace(config, image=shape[0])
        net = nets.build(config, channels=shape[0], size=shape[1:], classes=number)
        if rank is not None:
            net.prior = Prior(number or 1, shape, rank)
    return net, shape


def _fit_prior(recipe: Recipe, model: NetDenoiser, images: ImageSet) -> None:
    """Fit the network's prior to the codes of at most :data:`FITTED` pictures."""
    rows = torch.arange(0, len(images), -(-len(images) // FITTED))
    codes = torch.cat([model.space.encode(images.batch(part)[0]) for part in rows.split(500)])
    labels = images.labels if recipe.data.classes is not None else None
    model.prior.fit(codes, None if labels is None else labels[rows])


def build_task(
    recipe: Recipe, model: NetDenoiser | NetClassifier, images: ImageSet, held_out: ImageSet
) -> Denoising | Classifying:
    """The task of a resolved recipe."""
    optimizer, times = optim.build(model.net, recipe.train), _times(recipe.denoising, model.schedule)
    rows = torch.arange(min(HELD_OUT, len(held_out)))
    unseen = _batch(recipe, held_out, rows) if len(held_out) else None
    if isinstance(model, NetDenoiser) and model.prior is not None:
        _fit_prior(recipe, model, images)
    if isinstance(model, NetClassifier):
        return Classifying(model, optimizer, times, held_out=unseen)
    return Denoising(
        model,
        optimizer,
        times,
        drop=recipe.denoising.drop,
        loss_kind=recipe.denoising.loss_kind,
        held_out=unseen,
        show=_show(recipe, images),
    )


def sampling(config: SampleConfig) -> dict[str, Any]:
    """The arguments ``solver``, ``steps`` and ``grid`` of :func:`reverie.sample`.

    Raises:
        InputError: for an unknown solver or grid.
    """
    if config.solver not in auto.CHOICES:
        raise unknown("solver", config.solver, auto.CHOICES)
    if config.grid is not None and config.grid not in get_args(GridName):
        raise unknown("grid", config.grid, get_args(GridName))
    grids.check(config.steps)
    grid = None if config.grid is None else getattr(grids, config.grid)()
    return {"solver": config.solver, "steps": config.steps, "grid": grid}


def guided(denoise: Denoiser, recipe: Recipe, scale: float) -> Denoiser:
    """The denoiser at a guidance scale; as it is at scale 1 or without classes.

    Raises:
        InputError: when the model cannot be guided, because its labels were never dropped in training.
    """
    if scale == 1.0 or not denoise.conditions:
        return denoise
    if recipe.denoising.drop == 0.0:
        raise InputError(
            "this model was trained with denoising.drop 0, so it cannot be guided: use scale 1, or train with drop 0.1"
        )
    below = recipe.sample.guide_below
    return guide.cfg(denoise, scale, None if below is None else (-math.inf, below))


def _times(config: DenoisingConfig, schedule: Schedule) -> TimeSampler:
    if config.times == "logit-normal":
        return LogitNormal(config.times_mean, config.times_std)
    return Uniform() if config.times == "uniform" else LogSNR(schedule)


def _batch(recipe: Recipe, images: ImageSet, rows: Tensor) -> Batch:
    pictures, labels = images.batch(rows)
    return Batch(pictures, None if recipe.data.classes is None else Cond(label=labels))


def _show(recipe: Recipe, images: ImageSet) -> Callable[[NetDenoiser], tuple[Tensor, int]]:
    """A row of real images and three of samples on fixed noise, a class a column if there are classes."""
    if recipe.data.classes is None:
        columns, cond, rows = 8, None, torch.arange(min(8, len(images)))
    else:
        assert images.labels is not None
        present = images.labels.unique()[:10]
        columns, cond = len(present), Cond(label=present.repeat(3))
        rows = torch.stack([(images.labels == label).nonzero()[0, 0] for label in present])
    real, _ = images.batch(rows)
    scale = 1.0 if recipe.denoising.drop == 0.0 else recipe.sample.scale

    def show(denoise: NetDenoiser) -> tuple[Tensor, int]:
        drawn = sample(guided(denoise, recipe, scale), 3 * columns, cond, seed=recipe.seed, **sampling(recipe.sample))
        blank = torch.ones(columns - len(real), *real.shape[1:])
        return torch.cat([real, blank, drawn.cpu()]), columns

    return show
