"""Files that appear complete or not at all, and are never written through a link that somebody's folder brought along."""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reverie.core.errors import RunError
from reverie.core.text import utf8_name

if TYPE_CHECKING:
    from torch import Tensor

HEADER = "reverie"
"""The one entry of a safetensors header: JSON that says what the tensors are of (the library writes several in random order)."""


def inside(root: str | Path, *parts: str) -> Path:
    """``root/parts``, to be written to: nothing below ``root`` on the way is a symbolic link; ``root`` itself may be one.

    Raises:
        RunError: for a link.
    """
    path = Path(root)
    for part in Path(*parts).parts:
        path = path / part
        if path.is_symlink():
            raise RunError(
                f"{path} is a link to {os.readlink(path)}, and nothing in {root} is written through a link: remove it "
                "(the whole folder may be a link)"
            )
    return path


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """A new empty file beside ``path`` to be filled: at the end it is synced and renamed to ``path``, after an error removed.

    Raises:
        RunError: if it could not be written; what was there before stays.
    """
    from safetensors import SafetensorError

    partial = path.with_name(f".tmp-{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.touch(exist_ok=False)  # never through a link
        mode = partial.stat().st_mode
        yield partial
        partial.chmod(mode)  # safetensors makes it private
        sync(partial)
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path} could not be written: {getattr(error, 'strerror', None) or error}") from error
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def appearing_folder(path: Path) -> Iterator[Path]:
    """A new empty folder beside ``path`` to be filled: at the end it is renamed to ``path``, after an error removed.

    Raises:
        RunError: if it could not be written, or ``path`` is there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".tmp-{secrets.token_hex(8)}")
        partial.mkdir()  # never through a link
        try:
            yield partial
            sync(partial)
            os.rename(partial, path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except (OSError, RunError) as error:
        why = error.__cause__ or error  # of a file inside
        raise RunError(f"{path} could not be written: {getattr(why, 'strerror', None) or why}") from error


def write(path: Path, content: str | bytes) -> None:
    """Write a file, text as UTF-8 (what it lacks, as in names of other bytes, escaped).

    Raises:
        RunError: as :func:`appearing`.
    """
    with appearing(path) as partial:
        partial.write_bytes(content.encode(errors="backslashreplace") if isinstance(content, str) else content)


def header(of: Mapping[str, Any]) -> dict[str, str]:
    """The header of a safetensors file of ours."""
    return {HEADER: json.dumps(dict(of))}


def write_tensors(path: Path, tensors: Mapping[str, "Tensor"], of: Mapping[str, Any] | None) -> None:
    """Write a safetensors file whose header says, as JSON, what it is ``of``; nothing (None) in a file for another program.

    Raises:
        RunError: as :func:`appearing`.
    """
    from safetensors.torch import save_file

    with appearing(path) as partial:
        save_file(
            {key: value.contiguous() for key, value in tensors.items()}, partial, None if of is None else header(of)
        )


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A safetensors file, to read its header or some of its tensors.

    Raises:
        RunError: when it is missing or damaged; it names the file.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():  # a pipe would be waited for
        raise RunError(f"{path} is damaged: No such file")
    try:
        with utf8_name(path) as name, safe_open(name, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path} is damaged: {error}") from error


def about(file: Any, older: str = HEADER) -> dict[str, Any]:
    """What the header of an :func:`opened` file says it is about; nothing, if it is of another program.

    Args:
        file: the file.
        older: the header's entry in files from before there was one for all.
    """
    entries = file.metadata() or {}
    try:
        said = json.loads(entries.get(HEADER) or entries.get(older) or "{}")
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def read_about(path: Path) -> dict[str, Any]:
    """What the header of a safetensors file says it is about.

    Raises:
        RunError: as :func:`opened`, or when it says nothing.
    """
    with opened(path) as file:
        if said := about(file):
            return said
    raise RunError(f"{path} is damaged: its header does not say what it is of")


def read_tensors(path: Path) -> "dict[str, Tensor]":
    """All tensors of a safetensors file, on the CPU.

    Raises:
        RunError: as :func:`opened`.
    """
    with opened(path) as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
