"""What was found out about files on the disk, kept in the cache for the next start, the least recently used removed."""

import hashlib
import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from reverie.data import prefetch

KEPT_FROM = 1000
"""Records from which on what was found out is kept."""
KEPT = 8
"""Sets of which it is kept, those used last."""


def place(kind: str, about: Any) -> Path:
    """Where what is found out ``about`` something (JSON takes it) is kept, beside others of its kind."""
    return prefetch.cache() / kind / hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]


def forget(folder: Path) -> None:
    """Remove what was not used for longest; whoever has it mapped keeps it."""
    with suppress(OSError):
        every = [path for path in folder.iterdir() if path.name[0] != "."]
        for old in sorted(every, key=lambda path: path.stat().st_mtime)[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)
