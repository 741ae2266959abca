"""The base of an adapter's run, kept in its folder, so that either may move."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from reverie import spaces
from reverie.adapt.tokens import Model
from reverie.core import files
from reverie.core.batch import DataSpec
from reverie.core.errors import RunError
from reverie.core.files import inside
from reverie.core.task import Given, TaskConfig
from reverie.diffusion.building import FILE as SPACE
from reverie.spaces.latent import Latent

BASE = "base.safetensors"


def keep(run: str, config: TaskConfig, given: Given) -> None:
    """Leave the model of another run in a run's folder: its space and its averaged weights.

    Raises:
        InputError: when there is no such run.
    """
    path = inside(given.folder, BASE)
    if path.exists():
        return
    model: Any = given.load(run)
    if isinstance(model.space, Latent):
        spaces.save(model.space, inside(given.folder, SPACE))
    tensors = {
        f"{player}.{key}": v for player, net in _modules(config, model).items() for key, v in net.state_dict().items()
    }
    files.write_tensors(path, tensors, {"what": "base", "task": config.name})


def kept(config: TaskConfig, spec: DataSpec, seed: int, folder: Path | None) -> Model:
    """The model that :func:`keep` left in a run's folder, frozen; without one, with fresh weights.

    Raises:
        RunError: when the file is missing or damaged.
    """
    model = config.build(spec, seed, folder)
    path = None if folder is None else folder / BASE
    tensors = {} if path is None else files.read_tensors(path)
    for player, net in _modules(config, model).items():
        start = f"{player}."
        own = {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}
        try:
            net.load_state_dict(own if path else net.state_dict())
        except RuntimeError as error:
            raise RunError(f"{path} holds another network than the recipe describes: {error}") from error
        net.eval().requires_grad_(False)
    return config.open(model, spec)


def _modules(config: Any, model: Any) -> Mapping[str, nn.Module]:
    return config.modules(model)
