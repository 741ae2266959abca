"""Files that appear complete or not at all."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reverie.core.errors import RunError


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """The name of a file beside ``path`` to be filled: at the end it is synced and renamed to ``path``, after an error removed.

    Raises:
        RunError: if it could not be written; what was there before stays.
    """
    partial = path.with_name(f".tmp-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise RunError(f"{path} could not be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def write(path: Path, content: str | bytes) -> None:
    """Write a file, text as UTF-8, where names hold other bytes escaped.

    Raises:
        RunError: as :func:`appearing`.
    """
    with appearing(path) as partial:
        partial.write_bytes(content.encode(errors="backslashreplace") if isinstance(content, str) else content)


def sha256(path: Path) -> str:
    """SHA-256 of a file's contents, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
