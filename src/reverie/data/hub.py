"""Data sets of the Hugging Face hub by ``hf://OWNER/NAME``: streamed into shards in the cache, file by file as they are.

Training sees samples by position, in an order that its seed alone decides; a stream knows no positions. So a stream is read once, by
``reverie prefetch``, and after that everything works offline. Needs the library datasets (``pip install reverie[hub]``).
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from reverie.core.errors import InputError, RunError
from reverie.data import packing, prefetch
from reverie.data.split import APART, TRAINING

SCHEME = "hf://"


def folder(name: str) -> Path:
    """Where the shards of a data set are, or go.

    Args:
        name: ``hf://OWNER/NAME``, or ``hf://OWNER/NAME/CONFIG`` of a set that has several.

    Raises:
        InputError: for another spelling.
    """
    owner, *rest = _parts(name)
    *before, last = rest or [owner]
    return prefetch.cache() / "hub" / "--".join([owner, *before]) / last


def bring(name: str) -> Path:
    """Stream a data set into the cache, unless it is there; returns its folder.

    Raises:
        InputError: when there is no such set, it holds no pictures, or datasets is not installed.
        RunError: when it cannot be reached or written.
    """
    place = folder(name)
    if place.exists():
        return place
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise InputError(f"{name} is streamed by datasets, which is not installed: pip install reverie[hub]") from None
    owner, *rest = _parts(name)
    try:
        found: Any = datasets.load_dataset("/".join([owner, *rest[:1]]), next(iter(rest[1:]), None), streaming=True)
        splits = {split: undecoded(part) for split, part in found.items() if split in (*TRAINING, *APART)}
        packing.pack(splits or {"": undecoded(next(iter(found.values())))}, place, name=name)
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, InputError | RunError):
            raise
        raise RunError(f"{name} could not be streamed: {' '.join(str(error).split())[:300]}") from error
    return place


def undecoded(part: Any) -> Iterable[Mapping[str, Any]]:
    """A data set of datasets whose pictures stay the files that they are."""
    from datasets import Image  # pyright: ignore[reportMissingImports]

    for column, feature in (part.features or {}).items():
        if isinstance(feature, Image):
            part = part.cast_column(column, Image(decode=False))
    return part


def _parts(name: str) -> list[str]:
    parts = name.removeprefix(SCHEME).removeprefix("datasets/").split("/")
    if not name.startswith(SCHEME) or not 1 <= len(parts) <= 3 or not all(part.strip(".") for part in parts):
        raise InputError(f"a data set of the hub is hf://OWNER/NAME, or hf://OWNER/NAME/CONFIG: got {name!r}")
    return parts
