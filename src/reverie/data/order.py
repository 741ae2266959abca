"""Data order and augmentation as pure functions of (seed, images seen).

Training position i (the i-th image ever drawn) always means the same picture and the same flip, so a run that is
killed and resumed, or run with another batch size, sees the same stream. Keys are hashed with BLAKE2b to the 128-bit
key of Philox, a counter-based generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), of
which only the raw bits are used: these are fixed by the algorithm, not by a library version.
"""

import hashlib
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

_FLIPS_PER_COUNTER = 256


def indices(seed: int, start: int, count: int, n: int) -> Int64[Tensor, " count"]:
    """Pictures at training positions ``start … start + count − 1`` of a set of `n`: epoch after epoch, each epoch a
    fresh permutation of 0 … n − 1.

    Raises ValueError if `start` or `count` is negative or `n` is below 1.
    """
    _check_positions(start, count)
    if n < 1:
        raise ValueError(f"an order needs at least one picture; got n = {n}")
    pieces = []
    position, end = start, start + count
    while position < end:
        epoch, offset = divmod(position, n)
        taken = min(n - offset, end - position)
        pieces.append(_permutation(seed, epoch, n)[offset : offset + taken])
        position += taken
    return torch.from_numpy(np.concatenate(pieces) if pieces else np.empty(0, np.int64))


def flips(seed: int, start: int, count: int) -> Bool[Tensor, " count"]:
    """Whether the pictures at training positions ``start … start + count − 1`` are mirrored: fair coins.

    Raises ValueError if `start` or `count` is negative.
    """
    _check_positions(start, count)
    first, offset = divmod(start, _FLIPS_PER_COUNTER)
    blocks = -(-(offset + count) // _FLIPS_PER_COUNTER)
    words = np.random.Philox(key=_key("flip", int(seed)), counter=first).random_raw(4 * blocks)
    bits = np.unpackbits(np.asarray(words, dtype="<u8").view(np.uint8))[offset : offset + count]
    return torch.from_numpy(bits.astype(bool))


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    return np.argsort(np.random.Philox(key=_key("order", int(seed), epoch)).random_raw(n), kind="stable")


def _key(*parts: object) -> int:
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=16).digest(), "little")


def _check_positions(start: int, count: int) -> None:
    if start < 0 or count < 0:
        raise ValueError(f"positions and counts are not negative; got start = {start}, count = {count}")
