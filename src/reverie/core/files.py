"""Files that appear complete or not at all."""

import os
from pathlib import Path

from reverie.core.errors import RunError


def write(path: Path, content: str | bytes) -> None:
    """Write a file through a temporary one beside it, synced and renamed; text as UTF-8.

    Raises:
        RunError: if it could not be written; what was there before stays.
    """
    partial = path.with_name(f".tmp-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise RunError(f"{path} could not be written: {error.strerror or error}") from error
