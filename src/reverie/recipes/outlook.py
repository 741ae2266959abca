"""What a run will be, before its first step: its size, its pace, and how many images fit a budget of time."""

import copy
import math
import re
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from reverie.core.batch import Dataset
from reverie.core.bounds import check_bounds
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.task import Moment, Task
from reverie.data import ImageSet, Loader
from reverie.learn.runtime import Runtime
from reverie.recipes.recipe import Recipe

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
STEPS = 1.25
"""What a step costs of its passes: optimizer, averages, data, log, and processes in each other's way."""
MEASURED = 32
"""Images of a pass that is timed, at most."""


def seconds(text: str) -> float:
    """``90s``, ``5m``, ``1h30m`` as seconds.

    Raises:
        InputError: for anything else, and for no time at all.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text)
    total = sum(float(number) * UNITS[unit] for number, unit in parts)
    if "".join(map("".join, parts)) != text or not 0.0 < total < math.inf:
        raise InputError(f"--budget is a time such as 90s, 5m or 1h30m: got {text!r}")
    return total


def pace(task: Task, loader: Loader, recipe: Recipe) -> float:
    """Seconds of training an image, from one pass there and back of each player of a copy that moves, once the first has warmed up."""
    runtime, count = Runtime.choose(recipe.train.device), min(MEASURED, recipe.train.batch)
    batch = loader(0, count).to(runtime.device)
    task = copy.deepcopy(task, {id(data): data for data in vars(task).values() if isinstance(data, Dataset)})
    now, threads = Moment(0, 0, recipe.train.images), torch.get_num_threads()
    for player in task.players.values():
        player.module.to(runtime.device).train(player.train)
    torch.set_num_threads(max(1, threads // recipe.train.processes))
    taken = 0.0
    try:
        with torch.random.fork_rng():
            for _ in range(2):
                begun = time.perf_counter()
                for number, player in enumerate(task.turns(now)):
                    with runtime.autocast():
                        parts = task.loss(player, batch, Draws(recipe.seed, 0, count, number), now)
                    torch.stack([part.mean() for part in parts.values()]).sum().backward()
                if runtime.device.type != "cpu":
                    torch.accelerator.synchronize()
                taken = time.perf_counter() - begun
    finally:
        torch.set_num_threads(threads)
    return STEPS * taken / count / recipe.train.processes


def within(recipe: Recipe, budget: float, each: float) -> Recipe:
    """The recipe with as many images as ``budget`` seconds allow at ``each`` a piece, its warm-up and cadences in proportion."""
    config = recipe.train
    images = max(1, round(budget / each / config.batch)) * config.batch
    share = images / config.images
    keys = ("log_every", "validate_every", "sample_every", "save_every")
    train = replace(
        config,
        images=images,
        warmup=round(share * config.warmup),
        **{key: max(1, round(share * getattr(config, key))) for key in keys},
    )
    check_bounds(train, lambda key: f"train.{key}")
    return replace(recipe, train=train)


def outlook(recipe: Recipe, task: Task, data: ImageSet, held_out: ImageSet, folder: Path, each: float) -> list[str]:
    """What is about to happen, a line each: the data and its split, the network and its checkpoints, the time at ``each`` an image."""
    from reverie.recipes.serialisation import describe

    height, width = data.shape[1:]
    classes = f" in {len(data.classes)} classes" if data.labels is not None else ""
    parameters = sum(p.numel() for player in task.players.values() for p in player.module.parameters())
    total = recipe.train.images
    look = min(total, recipe.train.sample_every)
    weights = sum(_bytes(player.module) for player in task.players.values())
    return [
        f"{data.name}: {len(data):,} pictures of {height}x{width} in {'grey' if data.channels == 1 else 'colour'}{classes}, "
        f"{len(held_out):,} more held out",
        f"{describe(recipe.task)}: {parameters:,} parameters; checkpoints of about {_size(4 * weights)} in {folder}",
        f"{total:,} images in batches of {recipe.train.batch}: about {_time(each * total)}, a first look after about {_time(each * look)}",
    ]


def _bytes(module: nn.Module) -> int:
    return sum(p.nbytes for p in module.parameters())


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(0.1, count / 1e6):.1f} MB"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
