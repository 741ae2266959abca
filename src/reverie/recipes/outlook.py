"""What a run will be, before its first step: its size, its pace, the memory that it takes, and what fits a budget of time or memory."""

import copy
import math
import re
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from reverie.core import devices
from reverie.core.batch import Dataset
from reverie.core.bounds import check_bounds
from reverie.core.denoiser import NetDenoiser
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.task import Given, Moment, Task
from reverie.core.text import size
from reverie.data import ImageSet, Loader
from reverie.diffusion import reading
from reverie.diffusion.building import SPACE, tokenizer
from reverie.diffusion.config import DenoisingConfig
from reverie.learn.checkpoint import Checkpoints
from reverie.learn.config import TrainConfig
from reverie.learn.runtime import Runtime
from reverie.nets.config import TextConfig
from reverie.recipes.recipe import Recipe
from reverie.spaces import PatchPCA
from reverie.spaces.config import FILE, SpaceConfig
from reverie.spaces.files import SPACES

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
STEPS = 1.4
"""What a step costs of its passes: optimizer, averages, data, log, and processes in each other's way."""
STATES, BASE = 5, 300_000_000
"""Numbers kept a weight (itself, gradient, average, two of Adam's) besides further averages, and bytes of a process with PyTorch."""
SHARES = {"space": 0.5, "text": 0.2}
"""Of a budget, what may be taken by a tokenizer and by a text encoder that are trained first."""
ROOM = 0.8
"""Share of the memory that is free that a run is fitted into."""
FEW = 200
"""Pictures below which a diffusion model learns these, and little of what they have in common."""
MEASURED, LOOKED = 32, 1.0
"""Images of a pass that is timed at most, and seconds of passes."""


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


class Pace(NamedTuple):
    """What training costs: seconds an image, of all processes together; bytes an image, kept from a pass there to the pass back; bytes of a
    process besides."""

    seconds: float
    kept: float
    fixed: int

    def memory(self, recipe: Recipe) -> int:
        """Bytes that the processes of a run take where they share memory."""
        share = -(-recipe.train.batch // recipe.train.processes)
        return sharing(recipe) * round(self.fixed + self.kept * min(share, recipe.train.micro_batch or share))


def sharing(recipe: Recipe) -> int:
    """How many processes share a memory: all of them that of a machine, while each accelerator has one process."""
    return recipe.train.processes if Runtime.choose(recipe.train.device).device.type == "cpu" else 1


def pace(task: Task, loader: Loader, recipe: Recipe) -> Pace:
    """Passes there and back of each player of a copy that moves: a small one, whose saved tensors are counted, then timed ones."""
    runtime, share = Runtime.choose(recipe.train.device), -(-recipe.train.batch // recipe.train.processes)
    count = min(MEASURED, share, recipe.train.micro_batch or share)
    task = copy.deepcopy(task, {id(data): data for data in vars(task).values() if isinstance(data, Dataset)})
    total, threads = recipe.train.images, torch.get_num_threads()
    now = Moment(0, total // 2, total)  # losses that come in later have come in
    for player in task.players.values():
        player.module.to(runtime.device).train(player.train)

    def passes(n: int) -> tuple[float, int]:
        """Seconds, and the most bytes that a player's pass saves."""
        batch, most = loader(0, n).to(runtime.device), 0
        begun = time.perf_counter()
        for number, player in enumerate(task.turns(now)):
            with _saved(weights) as saved, runtime.autocast():
                parts = task.loss(player, batch, Draws(recipe.seed, 0, n, number), now)
            most = max(most, sum(saved.values()))
            torch.stack([part.mean() for part in parts.values()]).sum().backward()
        if runtime.device.type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter() - begun, most

    weights = [p for player in task.players.values() for p in player.module.parameters()]
    fixed = (STATES + len(recipe.train.ema_profiles)) * sum(p.nbytes for p in weights) + BASE
    torch.set_num_threads(max(1, threads // recipe.train.processes))
    try:
        with torch.random.fork_rng():
            first = min(count, 2)
            _, kept = passes(first)
            while count > first and fixed + kept / first * count > ROOM * devices.available(runtime.device):
                count //= 2
            taken, begun = [passes(count)[0]], time.perf_counter()
            while len(taken) < 2 or (time.perf_counter() - begun < LOOKED and len(taken) < 20):
                taken.append(passes(count)[0])
    finally:
        torch.set_num_threads(threads)
    return Pace(STEPS * min(taken) / count / recipe.train.processes, kept / first, fixed)


inside_jvp: Any = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]


@contextmanager
def _saved(weights: list[nn.Parameter]) -> Iterator[dict[int, int]]:
    """The bytes of the storages that are kept for the pass back, besides those of the weights, by their places."""
    own = {p.untyped_storage().data_ptr() for p in weights}
    kept: dict[int, int] = {}

    def keep(value: Tensor) -> Tensor:
        inner = value
        while inside_jvp.is_functorch_wrapped_tensor(inner):
            inner = inside_jvp.get_unwrapped(inner)
        if inner._is_zerotensor():  # a tangent that is none
            return value
        storage = inner.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return value

    with saved_tensors_hooks(keep, lambda value: value):
        yield kept


def fitted(recipe: Recipe, cost: Pace) -> Recipe:
    """The recipe in micro-batches that fit the memory that is free, unless it has chosen, or all fits."""
    free = ROOM * devices.available(Runtime.choose(recipe.train.device).device)
    if recipe.train.micro_batch is not None or cost.memory(recipe) <= free:
        return recipe
    share = -(-recipe.train.batch // recipe.train.processes)
    most = max(1, int((free / sharing(recipe) - cost.fixed) / cost.kept))
    return replace(recipe, train=replace(recipe.train, micro_batch=-(-share // -(-share // most))))


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


def stages_within(recipe: Recipe, given: Given, budget: float) -> Recipe:
    """The recipe with as many images of what it trains first, a tokenizer and a text encoder, as their :data:`SHARES` of ``budget`` seconds
    allow, and no more than it has; as it is when there is nothing to train, or its training has begun."""
    task, folder, images = vars(recipe.task), given.folder, {}
    space, text = task.get("space"), task.get("text")
    space = space if isinstance(space, SpaceConfig) and space.name in SPACES and space.name != PatchPCA.name else None
    if space is not None and not _begun(folder / FILE, folder / SPACE):
        config = TrainConfig(images=space.images, batch=space.batch, device=given.device)
        cost = pace(tokenizer(space, given), Loader(given.data, given.seed), replace(recipe, train=config))
        images["space"] = _affordable(config, cost, SHARES["space"] * budget)
    text = (
        text if isinstance(text, TextConfig) and not _begun(folder / reading.FILE, folder / reading.READING) else None
    )
    if text is not None and (first := reading.lesson(text, given)) is not None:
        cost = pace(first.task, first.loader, replace(recipe, train=first.config))
        images["text"] = _affordable(first.config, cost, SHARES["text"] * budget)
    return _with_stages(recipe, images)


def _begun(made: Path, training: Path) -> bool:
    return made.exists() or bool(Checkpoints(training / "checkpoints").all())


def _affordable(config: TrainConfig, cost: Pace, seconds: float) -> int:
    return min(config.images, max(1, int(seconds / cost.seconds / config.batch)) * config.batch)


def as_begun(recipe: Recipe, begun: Recipe) -> Recipe:
    """The recipe with the numbers of images that a budget gave its run when it began."""
    stages = {key: getattr(vars(begun.task).get(key), "images", None) for key in ("space", "text")}
    found = {key: images for key, images in stages.items() if images is not None}
    return replace(_with_stages(recipe, found), train=begun.train)


def _with_stages(recipe: Recipe, images: Mapping[str, int]) -> Recipe:
    stages = {key: replace(getattr(recipe.task, key), images=count) for key, count in images.items()}
    return replace(recipe, task=replace(recipe.task, **stages))


def outlook(recipe: Recipe, made: Any, data: ImageSet, held_out: ImageSet, folder: Path, cost: Pace) -> list[str]:
    """What is about to happen, a line each: the data and its split, the network and its checkpoints, time and memory, and whether diffusers
    will have it."""
    from reverie.bridge import refusal
    from reverie.recipes.serialisation import describe

    task = made.task
    height, width = data.shape[1:]
    classes = f" in {len(data.classes)} classes" if data.labels is not None else ""
    parameters = sum(p.numel() for player in task.players.values() for p in player.module.parameters())
    total, micro = recipe.train.images, recipe.train.micro_batch
    look = min(total, recipe.train.sample_every)
    weights = sum(_bytes(player.module) for player in task.players.values())
    parts = f", {micro} at a time" if micro else ""
    lines = [
        f"{data.name}: {len(data):,} pictures of {height}x{width} in {'grey' if data.channels == 1 else 'colour'}{classes}, "
        f"{len(held_out):,} more held out",
        f"{describe(recipe.task)}: {parameters:,} parameters; checkpoints of about {size(4 * weights)} in {folder}",
        f"{total:,} images in batches of {recipe.train.batch}{parts}: about {_time(cost.seconds * total)}, a first look after about "
        f"{_time(cost.seconds * look)}, in about {size(cost.memory(recipe))} of memory "
        f"({size(devices.available(Runtime.choose(recipe.train.device).device))} free)",
    ]
    if isinstance(made.model, NetDenoiser):
        why = refusal(made.model)
        lines.append(
            f"for diffusers: reverie convert {shlex.quote(str(folder))} OUT" if why is None else f"no export: {why}"
        )
    if len(data) < FEW and recipe.init is None and isinstance(recipe.task, DenoisingConfig):
        lines.append(
            f"{len(data):,} pictures are too few to learn from alone: what is drawn will be copies or noise. Start from a model of similar "
            f"pictures, a run or a folder in diffusers' format: {_from_another(recipe)}"
        )
    return lines


def _from_another(recipe: Recipe) -> str:
    """The command that does not learn from these pictures alone."""
    return f"reverie train --init RUN --data {shlex.quote(recipe.data.name)}"


def _bytes(module: nn.Module) -> int:
    return sum(p.nbytes for p in module.parameters())


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
