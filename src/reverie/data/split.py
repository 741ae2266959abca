"""The held-out split: a property of each item alone, so adding or removing an item moves no other."""

import hashlib
from collections.abc import Sequence

import numpy as np

HELD_OUT = 0.1


def held_out(key: str | bytes, fraction: float = HELD_OUT) -> bool:
    """Whether the item with this key (a path relative to its folder, or the bytes of a picture) is held out.

    The first 64 bits of SHA-256 of the key, read as a number in [0, 1), are compared with `fraction`.
    """
    data = key.encode("utf-8", "surrogateescape") if isinstance(key, str) else key
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big") < fraction * 2**64


def hold_out(keys: Sequence[str], labels: np.ndarray | None) -> np.ndarray:
    """Which items are held out, bool (N,). A class that would be held out whole stays in training, where it is needed more."""
    chosen = np.array([held_out(key) for key in keys], bool)
    groups = np.zeros(len(keys), np.int64) if labels is None else labels
    seen = np.unique(groups[~chosen])
    return chosen & np.isin(groups, seen)
