"""The held-out split: a property of each item alone, so adding or removing an item moves no other."""

import hashlib
from collections.abc import Sequence

import numpy as np

HELD_OUT = 0.1
TRAINING, APART = ("train", "training"), ("test", "validation", "valid", "val", "dev")
"""Folders of pictures to train on, and of those held out, by which a data set may say its split itself."""


def held_out(key: str | bytes, fraction: float = HELD_OUT) -> bool:
    """Whether the item with this key (a path relative to its folder, or the bytes of a picture) is held out.

    The first 64 bits of SHA-256 of the key, read as a number in [0, 1), are compared with `fraction`.
    """
    data = key.encode("utf-8", "surrogateescape") if isinstance(key, str) else key
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big") < fraction * 2**64


def by_split(paths: Sequence[str]) -> tuple[Sequence[str], np.ndarray | None]:
    """The paths without the folder of their split, and which are held out, bool (N,), where any are: of a data set whose folders are such.

    These are ``train``, beside which there may be ``test``, ``validation`` and the like; all pictures lie in one of them.
    """
    tops = [path.split("/", 1)[0].lower() if "/" in path else "" for path in paths]
    if not set(tops) & {*TRAINING} or not set(tops) <= {*TRAINING, *APART}:
        return paths, None
    apart = np.array([top in APART for top in tops])
    return [path.split("/", 1)[1] for path in paths], apart if apart.any() else None


def hold_out(keys: Sequence[str], labels: np.ndarray | None) -> np.ndarray:
    """Which items are held out, bool (N,). A class that would be held out whole stays in training, where it is needed more."""
    chosen = np.array([held_out(key) for key in keys], bool)
    groups = np.zeros(len(keys), np.int64) if labels is None else labels
    seen = np.unique(groups[~chosen])
    return chosen & np.isin(groups, seen)
