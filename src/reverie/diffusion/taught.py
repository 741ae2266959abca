"""The model of another run that a run begins with: its space, its weights and its text encoder, kept in the run's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from reverie import spaces
from reverie.core import files
from reverie.core.condition import Text
from reverie.core.denoiser import NetDenoiser
from reverie.core.errors import InputError, RunError
from reverie.core.files import inside
from reverie.core.task import Given
from reverie.diffusion.texts import BESIDE, reader_of
from reverie.spaces.config import FILE
from reverie.spaces.latent import Latent

TEACHER = "teacher.safetensors"
"""In a run's folder, the weights that it began with."""
READER = "teacher-text.safetensors"
"""Beside them, those of the text encoder that was trained with them, if there was one."""


def prepare_teacher(teacher: str, given: Given, texts: bool = False) -> None:
    """Leave the model of another run in the run's folder: its space and its averaged weights.

    Args:
        teacher: folder of its run.
        given: the run's.
        texts: whether it may be one that is told texts.

    Raises:
        InputError: when there is no such run, or its model is of other data.
    """
    path = inside(given.folder, TEACHER)
    if path.exists():
        return
    model: NetDenoiser = given.load(teacher)
    reads = getattr(model, "told", None) is not None
    if reads and not texts:
        raise InputError(f"{teacher} is told texts: this learns from a model that is told classes, or nothing")
    if reads and "text" not in given.spec.conditions:
        raise InputError(
            f"{teacher} is told texts, and this data has none to tell it: use its captions, --data.captions"
        )
    data = (model.space.data_shape(model.shape), {**model.conditions})
    if reads:
        own: Any = reader_of(model)
        text = given.spec.conditions["text"] if own is None else Text(own.length)
        data = (data[0], {**{k: v for k, v in data[1].items() if k not in ("text", *BESIDE)}, "text": text})
    if data != (given.spec.shape, {**given.spec.conditions}):
        raise InputError(
            f"{teacher} is a model of other data: of {data}, not {given.spec.shape, {**given.spec.conditions}}"
        )
    if isinstance(model.space, Latent):
        spaces.save(model.space, inside(given.folder, FILE))
    if (reader := reader_of(model)) is not None:
        files.write_tensors(inside(given.folder, READER), reader.state_dict(), {"what": "text encoder"})
    files.write_tensors(path, model.net.state_dict(), {"what": "teacher", "kind": model.kind.name})


def begin(model: NetDenoiser, folder: Path | None) -> NetDenoiser:
    """The model with the weights that :func:`prepare_teacher` left in a run's folder; without one, as it is.

    Raises:
        RunError: when the file is missing or damaged.
    """
    if folder is not None:
        _fill(model.net, folder / TEACHER)
        begin_reader(model, folder)
    return model


def begin_reader(model: NetDenoiser, folder: Path) -> None:
    """Give a model the text encoder that :func:`prepare_teacher` left in a run's folder, where it has one of its own.

    Raises:
        RunError: when the file is missing or damaged.
    """
    if (reader := reader_of(model)) is not None:
        _fill(reader, folder / READER)


def _fill(module: nn.Module, path: Path) -> None:
    try:
        module.load_state_dict(files.read_tensors(path))
    except RuntimeError as error:
        raise RunError(f"{path} holds another network than the recipe describes: {error}") from error
