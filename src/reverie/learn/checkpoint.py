"""Checkpoints: folders ``step-XXXXXXXX`` that appear complete or not at all, and never hold a pickle.

``state.json`` records the size and SHA-256 of every other file, ``state.sha256`` its own, in the format of ``sha256sum``.
"""

import hashlib
import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from reverie.core import files
from reverie.core.errors import RunError
from reverie.learn import shards

STATE, SEAL = "state.json", "state.sha256"
Tensors = Mapping[str, Tensor]
T = TypeVar("T")


def warn(text: str) -> None:
    print(text, file=sys.stderr)


def quiet(text: str) -> None:
    pass


class Damaged(RunError):
    """A file of a checkpoint is missing, cut short or changed; ``what`` says which and how."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}. Restore it, or use another checkpoint.")
        self.what = what


@dataclass(frozen=True)
class Checkpoint:
    """A saved moment of a run. Everything it gives is checked, or :class:`Damaged` is raised."""

    folder: Path

    @cached_property
    def state(self) -> dict[str, Any]:
        """``images``, ``step``, ``seconds`` and whatever the loop needs besides the tensors; ``files`` with size and SHA-256 of each."""
        path, seal = self.folder / STATE, self.folder / SEAL
        if not path.is_file():  # a pipe would be waited for
            raise self._damaged(STATE, "No such file")
        try:
            if seal.is_file() and seal.read_bytes() != _seal(path).encode():  # older checkpoints have none
                raise self._damaged(STATE, f"its SHA-256 is not the one in {SEAL}")
            state = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise self._damaged(STATE, str(error)) from error
        if not isinstance(state, dict) or type(state.get("images")) is not int:
            raise self._damaged(STATE, "it does not say how many images were seen")
        return state

    def check(self) -> "Checkpoint":
        """Itself, if every file is as it was written."""
        for file in self.state.get("files", {}):
            self._path(file)
        return self

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of ``name``.safetensors, or of the parts in the folder ``name``, on the CPU."""
        if not (parts := self._parts(name)):
            return self._whole(files.read_tensors, name)
        for file in parts:
            self._path(file)
        return shards.read(self.folder / name)

    def metadata(self, name: str) -> dict[str, str]:
        """What is said of the contents of ``name``."""
        return self.state["about"] if self._parts(name) else self._whole(files.read_about, name)

    def holds(self, name: str) -> bool:
        """Whether there are tensors of that name."""
        return f"{name}.safetensors" in self.state["files"] or bool(self._parts(name))

    def digest(self, name: str) -> str:
        """What tells the tensors ``name`` from others: the SHA-256 of their file, or of those of their parts."""
        known = self.state["files"]
        if not (parts := self._parts(name)):
            return known[f"{name}.safetensors"]["sha256"]
        return hashlib.sha256("".join(known[file]["sha256"] for file in parts).encode()).hexdigest()

    def _parts(self, name: str) -> list[str]:
        """The files that processes wrote their parts to."""
        return sorted(file for file in self.state.get("files", {}) if file.startswith(f"{name}/"))

    def parameters(self, name: str) -> int:
        """How many numbers ``name`` holds, from headers alone."""
        if self._parts(name):
            return shards.count(self.folder / name)
        path = self.folder / f"{name}.safetensors"
        try:
            with files.opened(path) as weights:
                return sum(math.prod(weights.get_slice(key).get_shape()) for key in weights.keys())  # noqa: SIM118 - not a dict
        except RunError as error:
            raise Damaged(str(error)) from error

    def _whole(self, read: Callable[[Path], T], name: str) -> T:
        path = self._path(f"{name}.safetensors")
        try:
            return read(path)
        except RunError as error:
            raise Damaged(str(error)) from error

    def _path(self, file: str) -> Path:
        """A listed file, once its size and SHA-256 are found to be right."""
        path = self.folder / file
        try:
            size, digest = (self.state["files"][file][key] for key in ("bytes", "sha256"))
        except (KeyError, TypeError) as error:
            raise self._damaged(STATE, f"it lists no {file}") from error
        try:
            if (found := path.stat().st_size) != size:
                raise self._damaged(file, f"it has {found:,} bytes of {size:,}")
            if files.sha256(path) != digest:
                raise self._damaged(file, f"its SHA-256 is not the one that {STATE} records")
        except OSError as error:
            raise self._damaged(file, str(error)) from error
        return path

    def _damaged(self, file: str, why: str) -> Damaged:
        return Damaged(f"{self.folder / file} is damaged: {why}")


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
        """What is there, whole or not, the latest last."""
        found = [path for path in self.folder.glob("step-*") if path.name[5:].isdecimal() and path.is_dir()]
        return [Checkpoint(path) for path in sorted(found, key=lambda path: int(path.name[5:]))]

    def latest(self) -> Checkpoint | None:
        """The last one, whole or not."""
        return next(reversed(self.all()), None)

    def newest(self, read: Callable[[Checkpoint], T], report: Callable[[str], None] = warn) -> T | None:
        """What ``read`` gives of the newest checkpoint in which it meets no damage; None if there is no checkpoint.

        A checkpoint that training removes meanwhile is no damage: the search begins again.

        Args:
            read: raises :class:`Damaged`.
            report: is told of damage, and which checkpoint is used instead.

        Raises:
            RunError: when all are damaged.
        """
        worst: Damaged | None = None
        for checkpoint in reversed(self.all()):
            try:
                found = read(checkpoint)
            except Damaged as error:
                if not checkpoint.folder.exists():
                    return self.newest(read, report)
                worst = worst or error
                continue
            if worst is not None:
                report(f"{worst.what}; {checkpoint.folder.name} is used in its place")
            return found
        if worst is not None:
            raise RunError(
                f"{worst.what}, and no checkpoint before it is whole. Restore it, or remove {self.folder} to train from the beginning."
            ) from worst
        return None

    def newest_whole(self, report: Callable[[str], None] = warn) -> Checkpoint | None:
        """The newest checkpoint whose files are all as they were written, see :meth:`newest`."""
        return self.newest(Checkpoint.check, report)

    def save(
        self, step: int, tensors: Mapping[str, Tensors], state: Mapping[str, Any], metadata: Mapping[str, str]
    ) -> Checkpoint:
        """Write a checkpoint and let the retention rule remove old ones.

        Args:
            step: names the folder.
            tensors: by the name of their file.
            state: JSON, with ``images``.
            metadata: goes into the header of every file, as JSON.

        Raises:
            RunError: when it could not be written; what was saved before is untouched.
        """
        with self.appearing(step, state) as unfinished:
            for file, content in tensors.items():
                files.write_tensors(unfinished / f"{file}.safetensors", content, metadata)
        return Checkpoint(self.folder / f"step-{step:08d}")

    @contextmanager
    def appearing(self, step: int, state: Mapping[str, Any]) -> Iterator[Path]:
        """The empty folder of a checkpoint, to be filled with safetensors files; it then becomes one, as by :meth:`save`.

        Training goes on from the newest whole checkpoint, so one of this step or later is damaged: it is renamed, to ``damaged-step-…``.
        """
        name = f"step-{step:08d}"
        unfinished = self.folder / f".tmp-{name}"
        try:
            files.inside(self.folder.parent, self.folder.name).mkdir(parents=True, exist_ok=True)
            for stale in self.folder.glob(".tmp-*"):
                _remove(stale)
            unfinished.mkdir()
            yield unfinished
            written = {
                path.relative_to(unfinished).as_posix(): {"bytes": path.stat().st_size, "sha256": files.sha256(path)}
                for path in sorted(unfinished.rglob("*.safetensors"))
            }
            files.write(unfinished / STATE, json.dumps({**state, "files": written}, indent=1))
            files.write(unfinished / SEAL, _seal(unfinished / STATE))
            files.sync(unfinished)
            for other in self.all():
                if int(other.folder.name[5:]) >= step:
                    _remove(aside := other.folder.with_name(f"damaged-{other.folder.name}"))
                    os.replace(other.folder, aside)
            os.replace(unfinished, self.folder / name)
            files.sync(self.folder)
        except (OSError, RunError) as error:
            why = error.__cause__ or error
            if not self.folder.is_symlink():
                shutil.rmtree(unfinished, ignore_errors=True)
            raise RunError(f"checkpoint {name} could not be saved in {self.folder}: {why}. {self.kept()}") from error
        self._retain()

    def kept(self, first: str = "make room and ") -> str:
        """What was saved, and how to go on from it, for messages; what to do ``first``."""
        try:
            latest = self.newest_whole(quiet)
        except RunError as error:
            return str(error)
        if latest is None:
            return f"Nothing had been saved before: {first}start again."
        return f"{latest.folder.name} ({latest.state['images']:,} images) is whole: {first}run the same command to go on from it."

    def tidy(self, latest: Checkpoint | None) -> None:
        """Remove what a process left behind that was killed while it wrote or removed.

        Args:
            latest: the newest whole checkpoint; where a later one is damaged, those before it are kept.
        """
        for stale in self.folder.parent.glob("*/.tmp-*"):
            if not stale.parent.is_symlink():
                _remove(stale)
        if latest is not None and latest.folder == self.all()[-1].folder:
            self._retain()

    def _retain(self) -> None:
        """Remove what neither rule keeps; what cannot be read is left to its owner."""
        every, last = self.all(), 0
        for checkpoint in every[: -self.keep]:
            try:
                images = checkpoint.state["images"]
            except Damaged:
                continue
            if self.keep_every is not None and images // self.keep_every > last:
                last = images // self.keep_every
                continue
            doomed = checkpoint.folder.with_name(f".tmp-{checkpoint.folder.name}")
            os.replace(checkpoint.folder, doomed)
            _remove(doomed)


def _seal(path: Path) -> str:
    return f"{files.sha256(path)}  {path.name}\n"


def _remove(path: Path) -> None:
    """Remove a folder, a file or a link, whatever is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
