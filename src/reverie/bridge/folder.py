"""Folders in diffusers' format: JSON and safetensors, read and nothing else. A pickle is never opened, no code of a folder is ever run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reverie.core import files
from reverie.core.errors import InputError, RunError, unknown

if TYPE_CHECKING:
    from torch import Tensor

INDEX, CONFIG, SCHEDULER = "model_index.json", "config.json", "scheduler_config.json"
FILES = (
    re.compile(r"(diffusion_pytorch_model|model)(\.(?P<variant>\w+))?\.safetensors"),
    re.compile(r"(diffusion_pytorch_model|model)\.safetensors\.index(\.(?P<variant>\w+))?\.json"),
)
"""Weights, and the index of their shards, as diffusers and transformers name them."""
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def is_folder(path: str | Path) -> bool:
    """Whether there is a pipeline or a model of diffusers' in a folder."""
    return any((Path(path).expanduser() / name).is_file() for name in (INDEX, CONFIG))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        InputError: when there is no such file.
        RunError: when it is damaged.
    """
    if not path.is_file():
        raise InputError(f"there is no {path.name} in {path.parent}")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is damaged: {error}. Copy or download it again.") from error
    if not isinstance(value, dict):
        raise RunError(f"{path} is damaged: it holds no JSON object. Copy or download it again.")
    return value


def read_tensors(path: Path) -> dict[str, Any]:
    """The tensors of a safetensors file, on the CPU.

    Raises:
        RunError: when it is missing or damaged.
    """
    with opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict


def read_header(path: Path) -> dict[str, str]:
    """What a safetensors file says beside its tensors.

    Raises:
        RunError: when it is missing or damaged.
    """
    with opened(path) as file:
        return file.metadata() or {}


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """:func:`reverie.core.files.opened`, for a file that can be had again."""
    try:
        with files.opened(path) as file:
            yield file
    except RunError as error:
        raise RunError(f"{error}. Copy or download it again.") from error


class Component:
    """One part of a pipeline: a folder with a configuration and perhaps weights.

    Raises:
        InputError: when the folder has no configuration.
    """

    def __init__(self, folder: Path, config: str = CONFIG) -> None:
        self.folder = folder
        self.config = read_json(folder / config)

    @property
    def kind(self) -> str:
        """The name of its class.

        Raises:
            InputError: when the configuration names none.
        """
        name = self.config.get("_class_name")
        if not isinstance(name, str):
            raise InputError(f"{self.folder} is not in diffusers' format: its configuration names no _class_name")
        return name

    @cached_property
    def variant(self) -> str | None:
        """Which of its weights are taken: None for the plain ones, else the only variant, such as "fp16".

        Raises:
            InputError: when there are none, only pickles, or several variants and none plain.
            RunError: when there are only shards, without the index that lists them.
        """
        if not self._found:
            raise self._nothing()
        if None in self._found:
            return None
        if len(self._found) > 1:
            several = ", ".join(sorted(map(str, self._found)))
            raise InputError(f"{self.folder} holds its weights in several variants, {several}: leave one of them there")
        return next(iter(self._found))

    @cached_property
    def _found(self) -> dict[str | None, Path]:
        """The file of each variant, the index where there are shards."""
        paths = sorted(self.folder.iterdir(), key=lambda path: path.suffix == ".json")
        return {match["variant"]: path for path in paths for form in FILES if (match := form.fullmatch(path.name))}

    def _nothing(self) -> InputError | RunError:
        """Why there are no weights."""
        if shard := next(self.folder.glob("*-of-*.safetensors"), None):
            return RunError(f"{self.folder} lacks the index of its shards ({shard.name}): copy or download it too")
        pickles = [path.name for pattern in PICKLES for path in sorted(self.folder.glob(pattern))]
        if pickles:
            return InputError(
                f"{self.folder} holds its weights only as a pickle ({pickles[0]}), which can run code and is not opened: "
                "get the safetensors version, or convert it where you trust it"
            )
        return InputError(
            f"{self.folder} holds no weights: expected diffusion_pytorch_model.safetensors or model.safetensors"
        )

    @cached_property
    def files(self) -> list[Path]:
        """The weight files: one, or the shards that an index lists.

        Raises:
            InputError, RunError: as :attr:`variant`, and when a shard is missing.
        """
        path = self._found[self.variant]
        if path.suffix != ".json":
            return [path]
        table = read_json(path).get("weight_map")
        names = sorted({str(name) for name in table.values()}) if isinstance(table, dict) else []
        shards = [self.folder / Path(name).name for name in names]
        missing = next((shard.name for shard in shards if not shard.is_file()), None)
        if missing or not shards:
            raise RunError(f"{self.folder} lacks {missing or 'its shards'}, listed in {path.name}")
        return shards

    def tensors(self) -> dict[str, Tensor]:
        """All weights, in the dtype of the file.

        Raises:
            InputError: when there are none, or only pickles.
            RunError: when a file is missing or damaged.
        """
        return {name: value for path in self.files for name, value in read_tensors(path).items()}

    def shapes(self) -> dict[str, Tensor]:
        """All weights on the meta device: the headers alone are read.

        Raises:
            InputError: when there are none, or only pickles.
            RunError: when a file is missing or damaged.
        """
        import torch

        shapes = {}
        for path in self.files:
            with opened(path) as file:
                shapes |= {name: torch.empty(file.get_slice(name).get_shape(), device="meta") for name in file.keys()}  # noqa: SIM118
        return shapes


class Folder:
    """A pipeline's folder, or that of a single model.

    Raises:
        InputError: when it is neither.
        RunError: when its index is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self.single = (self.path / CONFIG).is_file() and not (self.path / INDEX).is_file()
        if not self.single and not (self.path / INDEX).is_file():
            raise InputError(
                f"there is no pipeline or model in {self.path}: it has neither {INDEX} nor {CONFIG}. "
                "Models of one file are not read: save them in diffusers' format first."
            )
        self.index = {} if self.single else read_json(self.path / INDEX)

    def has(self, name: str) -> bool:
        """Whether the pipeline has such a part."""
        entry = self.index.get(name)
        return isinstance(entry, list) and len(entry) == 2 and all(isinstance(v, str) for v in entry)

    def part(self, name: str, config: str = CONFIG) -> Component:
        """A part of the pipeline, in its own folder or, as in the first pipelines of one network, beside the index."""
        inner = self.path / name
        return Component(inner if inner.is_dir() else self.path, config)

    def class_of(self, name: str, known: tuple[str, ...], library: str = "transformers") -> str:
        """The class of a part, one of ``known``.

        Raises:
            InputError: for any other, which might run code of the folder.
        """
        origin, kind = self.index[name]
        if origin != library or kind not in known:
            raise unknown(f"class of {name} in {self.path},", f"{origin}.{kind}", [f"{library}.{k}" for k in known])
        return kind
