"""From the settings of retrieval-augmented diffusion to what they describe: φ, the database of a run, the model, its objective."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from reverie import nets
from reverie.core.batch import Dataset, DataSpec
from reverie.core.denoiser import NetDenoiser
from reverie.core.errors import InputError
from reverie.core.files import inside
from reverie.core.task import Given
from reverie.data.codes import of_codes
from reverie.diffusion.building import coded, schedule_of, space_of, times, unseen
from reverie.diffusion.denoising import Denoising
from reverie.diffusion.rdm import RDM, Database, Look, Retrieved
from reverie.measure import judge
from reverie.measure.clip import CLIP, is_clip
from reverie.nets.config import CONFIGS

if TYPE_CHECKING:
    from reverie.diffusion.rdm_config import RDMConfig

FILE, HELD_OUT = "database.safetensors", "held_out.safetensors"
"""In a run's folder: the database of its training pictures, and the vectors of the held-out ones."""
UNKNOWN = 64
"""Numbers of a vector, while nobody knows."""


def model_of(name: str, load: Callable[[str], Any]) -> Any:
    """What makes vectors of pictures: a bundled judge, transformers' CLIP in a folder, or what a run has trained."""
    if is_clip(Path(name).expanduser()):
        return CLIP(name)
    return judge.load(name) if (judge.FOLDER / f"{name}.safetensors").is_file() else load(name)


def look_of(model: Any) -> Look:
    """φ, by a picture-text model or a judge.

    Raises:
        InputError: for a model that gives no vectors of pictures.
    """
    if hasattr(model, "pictures"):
        return model.pictures
    if not isinstance(model, judge.Judge):
        raise InputError(
            f"a {type(model).__name__} makes no vectors of pictures: give --embed a run of towers or judge"
        )
    return lambda x: F.normalize(model(x), dim=1)


def alone(spec: DataSpec) -> None:
    """Raise an :class:`InputError` for pictures that come with classes or captions, which such a model is not told."""
    if spec.conditions:
        raise InputError(
            f"this model is told vectors of pictures and nothing else, the data gives {', '.join(spec.conditions)}: leave it out "
            "(--data.no-labels, --data.no-captions)"
        )


def prepare(embed: str, given: Given) -> None:
    """Leave the vectors of the training and held-out pictures in the run's folder.

    Raises:
        InputError: when there is no such φ, or it does not take the pictures.
    """
    if (given.folder / FILE).exists():
        return
    model = model_of(embed, given.load)
    if len(given.held_out):
        Database.of(given.held_out, look_of(model), model.name).save(inside(given.folder, HELD_OUT))
    Database.of(given.data, look_of(model), model.name).save(inside(given.folder, FILE))


def build(config: RDMConfig, spec: DataSpec, seed: int, folder: Path | None) -> RDM:
    """The model, freshly initialised, with the database of its folder; without one, with a database that says nothing.

    Raises:
        InputError: when the network does not attend to a text, or cannot take the size of the data.
    """
    if not hasattr(config.net, "context"):
        able = ", ".join(name for name, kind in CONFIGS.items() if hasattr(kind, "context"))
        raise InputError(f"neighbours are told to networks that attend to a text: use --net {able}")
    there = folder is not None and (folder / FILE).is_file()
    database = Database.load(folder / FILE) if there else Database(torch.ones(config.k, UNKNOWN))  # pyright: ignore[reportOptionalOperand]
    space = space_of(config.space, spec, folder)
    shape = space.code_shape(spec.shape)
    own = replace(config.net, context=database.dim, length=config.k)  # pyright: ignore[reportCallIssue]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nets.build(own, channels=shape[0], size=shape[1:])
    denoise = NetDenoiser(net, schedule_of(config), config.kind, shape=shape, time=config.time, space=space)
    return RDM(denoise, database, config.k)


def examples(
    config: RDMConfig, data: Dataset, held_out: Dataset, folder: Path, codes: Path
) -> tuple[Retrieved, Dataset]:
    """The pictures or their codes, told by their neighbours among the training pictures."""
    database = Database.load(folder / FILE)
    pixels = config.space.name == "pixels"
    seen, held = (data, held_out) if pixels else (coded(each, folder, codes) for each in (data, held_out))
    told = Retrieved(seen, database, None, config.k)
    if not len(held_out):
        return told, held
    return told, Retrieved(held, database, Database.load(folder / HELD_OUT).vectors, config.k)


def task(config: RDMConfig, model: RDM, data: Retrieved, held_out: Dataset) -> Denoising:
    """The ordinary objective, under the neighbours."""
    denoise: Any = model.denoise
    density = times(config, denoise.schedule)
    return Denoising(denoise, density, drop=config.drop, coded=of_codes(data.data), held_out=unseen(held_out))
