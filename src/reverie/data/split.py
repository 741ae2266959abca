"""The held-out split: a property of each item alone, so adding or removing an item moves no other."""

import hashlib

HELD_OUT = 0.1


def held_out(key: str | bytes, fraction: float = HELD_OUT) -> bool:
    """Whether the item with this key (a path relative to its folder, or the bytes of a picture) is held out.

    The first 64 bits of SHA-256 of the key, read as a number in [0, 1), are compared with `fraction`.
    """
    data = key.encode("utf-8", "surrogateescape") if isinstance(key, str) else key
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big") < fraction * 2**64
