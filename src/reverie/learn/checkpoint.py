"""Checkpoints: folders ``step-XXXXXXXX`` that appear complete or not at all, and never hold a pickle."""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from reverie.core.errors import RunError
from reverie.core.text import utf8_name

STATE = "state.json"
HEADER = "reverie"
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """A saved moment of a run."""

    folder: Path

    @property
    def state(self) -> dict[str, Any]:
        """``images``, ``step``, ``seconds`` and whatever the loop needs besides the tensors; ``files`` with size and SHA-256 of each.

        Raises:
            RunError: when it is damaged.
        """
        try:
            return json.loads((self.folder / STATE).read_text())
        except (OSError, ValueError) as error:
            raise self._damaged(STATE, str(error)) from error

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of ``name``.safetensors, on the CPU.

        Raises:
            RunError: when the file is missing, cut short or changed.
        """
        file = f"{name}.safetensors"
        expected = self.state.get("files", {}).get(file)
        if expected is None:
            raise self._damaged(STATE, f"it lists no {file}")
        try:
            size = (self.folder / file).stat().st_size
            if size != expected["bytes"]:
                raise self._damaged(file, f"it has {size:,} bytes of {expected['bytes']:,}")
            if _sha256(self.folder / file) != expected["sha256"]:
                raise self._damaged(file, "its SHA-256 is not the one that state.json records")
            with utf8_name(self.folder / file) as path:
                return load_file(path)
        except (OSError, SafetensorError) as error:
            raise self._damaged(file, str(error)) from error

    def parameters(self, name: str) -> int:
        """How many numbers ``name``.safetensors holds, from its header.

        Raises:
            RunError: when it is damaged.
        """
        with self._open(name) as weights:
            return sum(math.prod(weights.get_slice(key).get_shape()) for key in weights.keys())  # noqa: SIM118 - not a dict

    def metadata(self, name: str) -> dict[str, str]:
        """What the header of ``name``.safetensors says of its contents.

        Raises:
            RunError: when it is damaged.
        """
        with self._open(name) as weights:
            header = weights.metadata() or {}
        if HEADER not in header:
            raise self._damaged(f"{name}.safetensors", "its header does not say what data and network it is of")
        return json.loads(header[HEADER])

    @contextmanager
    def _open(self, name: str) -> Iterator[Any]:
        file = f"{name}.safetensors"
        try:
            with utf8_name(self.folder / file) as path, safe_open(path, framework="numpy") as weights:
                yield weights
        except (OSError, SafetensorError) as error:
            raise self._damaged(file, str(error)) from error

    def _damaged(self, file: str, why: str) -> RunError:
        others = [c for c in Checkpoints(self.folder.parent).all() if c != self]
        instead = (
            f"the one before it, {others[-1].folder.name}, is used" if others else "training starts from the beginning"
        )
        return RunError(f"{self.folder / file} is damaged: {why}. Restore it, or remove {self.folder}: then {instead}.")


class Checkpoints:
    """The checkpoints of a run.

    Args:
        folder: holds them.
        keep: how many of the latest to keep.
        keep_every: besides these, keep the first one after every so many images.
    """

    def __init__(self, folder: Path, keep: int = 2, keep_every: int | None = None) -> None:
        self.folder, self.keep, self.keep_every = Path(folder), keep, keep_every

    def all(self) -> list[Checkpoint]:
        """What is there, the latest last."""
        return [Checkpoint(path) for path in sorted(self.folder.glob("step-*")) if (path / STATE).exists()]

    def latest(self) -> Checkpoint | None:
        return next(reversed(self.all()), None)

    def save(
        self, step: int, files: Mapping[str, Tensors], state: Mapping[str, Any], metadata: Mapping[str, str]
    ) -> Checkpoint:
        """Write a checkpoint and let the retention rule remove old ones.

        Args:
            step: names the folder.
            files: tensors by the name of their file.
            state: JSON.
            metadata: goes into the header of every file, as JSON.

        Raises:
            RunError: when it could not be written; what was saved before is untouched.
        """
        name = f"step-{step:08d}"
        header = {HEADER: json.dumps(dict(metadata))}  # one entry: the library writes several in random order
        partial = self.folder / f".tmp-{name}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for stale in self.folder.glob(".tmp-*"):
                shutil.rmtree(stale)
            partial.mkdir()
            written = {}
            for file, tensors in files.items():
                path = partial / f"{file}.safetensors"
                save_file({key: value.contiguous() for key, value in tensors.items()}, path, header)
                path.chmod(0o644)  # the library makes it private
                _sync(path)
                written[path.name] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
            (partial / STATE).write_text(json.dumps({**state, "files": written}, indent=1))
            _sync(partial / STATE)
            _sync(partial)
            os.replace(partial, self.folder / name)
            _sync(self.folder)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise RunError(f"checkpoint {name} could not be saved in {self.folder}: {error}. {self.kept()}") from error
        self._retain()
        return Checkpoint(self.folder / name)

    def kept(self) -> str:
        """What was saved, and how to go on from it, for messages."""
        latest = self.latest()
        if latest is None:
            return "Nothing had been saved before. Make room and start again."
        return f"{latest.folder.name} ({latest.state['images']:,} images) is whole: make room and run the same command to go on from it."

    def _retain(self) -> None:
        """Remove what neither rule keeps."""
        every, last = self.all(), 0
        for checkpoint in every[: -self.keep]:
            images = checkpoint.state["images"]
            if self.keep_every is not None and images // self.keep_every > last:
                last = images // self.keep_every
                continue
            doomed = checkpoint.folder.with_name(f".tmp-{checkpoint.folder.name}")
            os.replace(checkpoint.folder, doomed)
            shutil.rmtree(doomed)


def _sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
