"""Folders in diffusers' format: JSON and safetensors, read and nothing else. A pickle is never opened, no code of a folder is ever run."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from reverie.core.errors import InputError, RunError, unknown
from reverie.core.text import utf8_name

INDEX, CONFIG, SCHEDULER = "model_index.json", "config.json", "scheduler_config.json"
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
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        with utf8_name(path) as name:
            return load_file(name)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path} is damaged or incomplete: {error}. Copy or download it again.") from error


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
    def files(self) -> list[Path]:
        """The weight files: one, or the shards that an index lists.

        Raises:
            InputError: when there are none, or only pickles.
            RunError: when a shard is missing.
        """
        for index in sorted(self.folder.glob("*.safetensors.index.json")):
            table = read_json(index).get("weight_map")
            names = sorted(set(table.values())) if isinstance(table, dict) else []
            missing = [name for name in names if not (self.folder / Path(name).name).is_file()]
            if missing or not names:
                raise RunError(f"{self.folder} lacks {missing[0] if missing else 'its shards'}, listed in {index.name}")
            return [self.folder / Path(name).name for name in names]
        found = sorted(self.folder.glob("*.safetensors"), key=lambda path: (len(path.name), path.name))
        if found:
            return found[:1]  # the plain file before variants such as fp16
        pickles = [path.name for pattern in PICKLES for path in sorted(self.folder.glob(pattern))]
        if pickles:
            raise InputError(
                f"{self.folder} holds its weights only as a pickle ({pickles[0]}), which can run code and is not opened: "
                "get the safetensors version, or convert it where you trust it"
            )
        raise InputError(f"{self.folder} holds no weights: expected a .safetensors file")

    def tensors(self) -> dict[str, Any]:
        """All weights, in float32.

        Raises:
            InputError: when there are none, or only pickles.
            RunError: when a file is missing or damaged.
        """
        tensors = {name: value for path in self.files for name, value in read_tensors(path).items()}
        return {name: v.float() if v.is_floating_point() else v for name, v in tensors.items()}

    def check(self) -> None:
        """Whether the weights are whole, by their headers and sizes.

        Raises:
            InputError: when there are none, or only pickles.
            RunError: when a file is damaged.
        """
        from safetensors import SafetensorError, safe_open

        for path in self.files:
            try:
                with utf8_name(path) as name, safe_open(name, "pt"):
                    pass
            except (OSError, SafetensorError) as error:
                raise RunError(f"{path} is damaged or incomplete: {error}. Copy or download it again.") from error


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
        """A part of the pipeline."""
        return Component(self.path / name, config)

    def class_of(self, name: str, known: tuple[str, ...], library: str = "transformers") -> str:
        """The class of a part, one of ``known``.

        Raises:
            InputError: for any other, which might run code of the folder.
        """
        origin, kind = self.index[name]
        if origin != library or kind not in known:
            raise unknown(f"class of {name} in {self.path},", f"{origin}.{kind}", [f"{library}.{k}" for k in known])
        return kind
