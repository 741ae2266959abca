"""``log.jsonl``: one JSON object a line, each with ``images``, the images seen when it was written."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Journal:
    """An append-only log. Opening it at ``images`` drops what a killed process wrote after its last checkpoint."""

    def __init__(self, path: Path, images: int) -> None:
        self.path = path
        kept = [entry for entry in read(path) if entry["images"] <= images]
        partial = path.with_name(f".tmp-{path.name}")
        with partial.open("w") as file:
            file.writelines(_line(entry) for entry in kept)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)

    def add(self, images: int, **values: Any) -> None:
        with self.path.open("a") as file:
            file.write(_line({"images": images, **values}))


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The entries of a log, none if there is no file; a last line that was cut short is left out."""
    if not path.exists():
        return
    with path.open() as file:
        for line in file:
            if not line.endswith("\n"):
                return
            yield json.loads(line)


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry) + "\n"
