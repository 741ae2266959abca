"""A run that starts from weights: those of another run, or of a folder in diffusers' format."""

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from reverie import bridge
from reverie.bridge import continuing
from reverie.core.errors import InputError
from reverie.core.files import appearing
from reverie.core.text import shown
from reverie.data import ImageSet
from reverie.diffusion.reading import FILE as READ
from reverie.learn.config import TrainConfig
from reverie.learn.runtime import launched
from reverie.nets.caption_prior import CaptionPrior
from reverie.nets.prior import Prior
from reverie.recipes.recipe import DataConfig, Recipe
from reverie.recipes.runs import Run
from reverie.recipes.suited import suited
from reverie.spaces.config import FILE

RATE = 2e-4
"""The learning rate at which weights that know something already are trained on."""
LISTED = 12
"""Names that are listed at most."""


def recipe_from(source: str) -> Recipe:
    """The recipe that goes on with a model: its network, path, kind and size of pictures; of a run, also its data and how it is drawn from.

    Args:
        source: the folder of a run, or one in diffusers' format.

    Raises:
        InputError: when there is neither, or what is there cannot be trained on.
    """
    if not _foreign(source):
        recipe = Run(source).recipe
        data = replace(recipe.data, classes=None, contents=None)
        return Recipe(init=source, data=data, task=recipe.task, sample=recipe.sample)
    model = _pretrained(source)
    channels, *size = model.shape
    data = DataConfig(size=size[0] if size[0] == size[1] else (size[0], size[1]), channels=channels)
    return Recipe(init=source, data=data, task=_settings(model, source))


def training(images: ImageSet, recipe: Recipe) -> TrainConfig:
    """How weights that are there are trained on with pictures: as long as suits these, gently."""
    found = suited(images, recipe).train
    return replace(found, optimizer="adamw", lr=RATE, weight_decay=TrainConfig().weight_decay)


def prepare(recipe: Recipe, folder: Path) -> None:
    """Leave in a new run's folder what was made before the weights that it starts from: their space, and what their texts were read by."""
    if recipe.init is None or _foreign(recipe.init):
        return
    for key, file in (("space", FILE), ("text", READ)):
        there = Path(recipe.init) / file
        if not there.is_file() or (folder / file).exists():
            continue
        if getattr(Run(recipe.init).recipe.task, key, None) == getattr(recipe.task, key, None):
            with appearing(folder / file) as partial:
                shutil.copyfile(there, partial)


def begin(recipe: Recipe, model: Any) -> None:
    """Give a fresh model the weights that the recipe starts from: what fits by name and shape. What does not is listed.

    The prior is not among them: it is fitted to the data.

    Raises:
        InputError: when nothing fits, or there is no such model.
    """
    assert recipe.init is not None
    found = _weights(recipe.init)
    modules = recipe.task.modules(model)
    wanted = {
        f"{player}.{key}": value for player, module in modules.items() for key, value in module.state_dict().items()
    }
    fitted = tuple(
        f"{player}.{name}."
        for player, module in modules.items()
        for name, part in module.named_modules()
        if isinstance(part, Prior | CaptionPrior)
    )
    found, wanted = (
        {key: value for key, value in state.items() if not key.startswith(fitted)} for state in (found, wanted)
    )
    taken = {key: found[key] for key in wanted if key in found and found[key].shape == wanted[key].shape}
    if not taken:
        raise InputError(f"{recipe.init} holds no weight that fits this network by name and shape: leave --init out")
    for player, module in modules.items():
        own = {key.removeprefix(f"{player}."): value for key, value in taken.items() if key.startswith(f"{player}.")}
        module.load_state_dict(own, strict=False)
    if launched()[0] == 0:
        print(shown("\n".join(_told(recipe.init, wanted, found, taken))), file=sys.stderr)


def _told(
    source: str, wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], taken: Mapping[str, Tensor]
) -> list[str]:
    """What was taken, and the names of what was not."""
    other = [f"{k} {_shape(wanted[k])}, there {_shape(found[k])}" for k in wanted if k in found and k not in taken]
    absent = [f"{k} {_shape(wanted[k])}" for k in wanted if k not in found]
    unused = [f"{k} {_shape(found[k])}" for k in found if k not in wanted]
    lines = [f"from {source}: {len(taken)} of {len(wanted)} tensors taken"]
    for what, names in (("of another shape", other), ("not there", absent), ("not used", unused)):
        lines += _listed(what, names)
    return lines


def _listed(what: str, names: Sequence[str]) -> list[str]:
    more = [f"  … and {len(names) - LISTED} more"] if len(names) > LISTED else []
    return [f"  {what}: {name}" for name in names[:LISTED]] + more


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "one number"


def _foreign(source: str) -> bool:
    """Whether a folder is one in diffusers' format and no run."""
    return bridge.is_folder(source) and not (Path(source).expanduser() / "recipe.yaml").is_file()


def _weights(source: str) -> dict[str, Tensor]:
    """The tensors of a model by player and name; of a run, its averaged weights."""
    if not _foreign(source):
        return Run(source).checkpoint.tensors("ema")
    model = _pretrained(source)
    _settings(model, source)
    return {f"denoiser.{key}": value for key, value in continuing.weights(model).items()}


def _pretrained(source: str) -> bridge.Pretrained:
    model = bridge.load(source)
    if not isinstance(model, bridge.Pretrained):
        raise InputError(f"{source} holds an auto-encoder: --init is a run or a diffusion model")
    return model


def _settings(model: bridge.Pretrained, source: str) -> Any:
    try:
        return continuing.settings(model)
    except InputError as error:
        raise InputError(f"{source} cannot be trained on: {error}") from error
