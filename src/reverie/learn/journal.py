"""``log.jsonl``: one JSON object a line, each with ``images``, the images seen when it was written."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reverie.core.errors import RunError
from reverie.core.files import inside, write


class Journal:
    """An append-only log. Opening it at ``images`` drops what a killed process wrote after its last checkpoint.

    Attributes:
        validated: the images seen at the last validation; −1 before the first.
    """

    def __init__(self, path: Path, images: int) -> None:
        self.path = inside(path.parent, path.name)
        kept = [entry for entry in entries(path) if entry["images"] <= images]
        self.validated = max((entry["images"] for entry in kept if "validation" in entry), default=-1)
        write(path, "".join(map(_line, kept)))

    def add(self, images: int, **values: Any) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line({"images": images, **values}))
        if "validation" in values:
            self.validated = images


def entries(path: Path) -> Iterator[dict[str, Any]]:
    """The entries of a log, none if there is no file; a last line that was cut short is left out.

    Raises:
        RunError: for a line that is no such entry.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                entry = json.loads(line)
                if type(entry["images"]) is not int:
                    raise ValueError("images is not a whole number")
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise RunError(f"{path}, line {number} is damaged: {error}. Remove that line.") from error
            yield entry


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry) + "\n"
