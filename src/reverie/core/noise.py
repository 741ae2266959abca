"""The noise tape: every random draw of sampling is addressed, so it never depends on batch, shard, device or resume point.

A draw has the address (sample seed, stream, number). The address is hashed (BLAKE2b, 128 bits) to a key of the counter-based generator
Philox4x64 (Salmon et al. 2011), whose raw 64-bit words become normals by Box-Muller in float64. The bits are drawn on the host, one
sample at a time, and then cast and copied, so every device, dtype and batch sees the same noise.
"""

import threading
from collections.abc import Sequence
from hashlib import blake2b
from operator import index
from typing import Any, Protocol, SupportsIndex

import numpy as np
import torch
from torch import Tensor

from reverie.core.errors import InputError

SampleSeed = tuple[int, int]
"""(seed, index): sample ``index`` of the run with that seed."""

Seeds = SupportsIndex | Sequence[SupportsIndex] | Sequence[SampleSeed] | np.ndarray
"""One seed for a run, any whole number, or a list, array or tensor with one (or a :data:`SampleSeed`) a sample."""

Span = tuple[float, float]
"""The interval (λ_from, λ_to) of the move that a draw belongs to; a Brownian tape reads it, the plain tape does not."""


class NoiseTape(Protocol):
    """Where a run's noise comes from. A recorded or a Brownian tape is another implementation."""

    def draw(self, stream: str, number: int, shape: Sequence[int], span: Span | None = None) -> Tensor:
        """Standard normal noise of shape ``(B, *shape)``, float32 on the CPU, the same for the same address."""
        ...


def listed(seed: Seeds) -> bool:
    """Whether there is a seed a sample, not one for all."""
    return isinstance(seed, Sequence) or getattr(seed, "ndim", 0) > 0


def sample_seeds(seed: Seeds, n: int) -> list[SampleSeed]:
    """The address of each of ``n`` samples: ``seed=s`` gives (s, 0) … (s, n−1); a list gives one seed (or (seed, index)) a sample.

    Raises:
        InputError: when a list has another length than ``n``, or a seed is no whole number.
    """
    if not listed(seed):
        return [(_whole(seed), i) for i in range(n)]
    seeds: list[Any] = list(seed)  # pyright: ignore[reportArgumentType]
    if len(seeds) != n:
        raise InputError(f"a list of seeds has one a sample: got {len(seeds)} seeds for {n} samples")
    return [(_whole(s[0]), _whole(s[1])) if listed(s) and len(s) == 2 else (_whole(s), 0) for s in seeds]


def _whole(seed: Any) -> int:
    try:
        return index(seed)
    except TypeError:
        raise InputError(f"a seed is a whole number, or a list with one a sample: got {seed!r}") from None


def normals(key: str, count: int, counter: int = 0) -> np.ndarray:
    """``count`` float64 standard normals for a text key; the transform is Box-Muller on 53-bit uniforms in (0, 1)."""
    return normal_rows([key], count, counter)[0]


def normal_rows(keys: Sequence[str], count: int, counter: int = 0) -> np.ndarray:
    """:func:`normals` of several keys, (len(keys), count)."""
    pairs = (count + 1) // 2
    bits = np.empty((len(keys), 2 * pairs), dtype=np.uint64)
    for row, key in zip(bits, keys, strict=True):
        row[:] = _words(key, 2 * pairs, counter)
    uniform = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    radius, angle = np.sqrt(-2.0 * np.log(uniform[:, :pairs])), 2.0 * np.pi * uniform[:, pairs:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)[:, :count]


_local = threading.local()


def _words(key: str, count: int, counter: int) -> np.ndarray:
    """Raw words for the key's hash from block ``counter``·2¹²⁸ on. A thread keeps its generator: making one costs ten times as much."""
    if not hasattr(_local, "philox"):
        _local.philox = np.random.Philox(0)
        _local.state = _local.philox.state
    state = _local.state
    state["state"]["key"] = np.frombuffer(blake2b(key.encode(), digest_size=16).digest(), dtype=np.uint64)
    state["state"]["counter"] = np.array([0, 0, counter, 0], dtype=np.uint64)
    _local.philox.state = state
    return _local.philox.random_raw(count)


class Tempered:
    """A tape with the same noise, but that a run begins from is scaled by a temperature.

    Args:
        tape: any other.
        temperature: positive factor.
    """

    def __init__(self, tape: NoiseTape, temperature: float) -> None:
        self.tape, self.temperature = tape, temperature

    def draw(self, stream: str, number: int, shape: Sequence[int], span: Span | None = None) -> Tensor:
        noise = self.tape.draw(stream, number, shape, span)
        return self.temperature * noise if stream == "init" else noise


class Tape:
    """The plain tape: independent normals for each address.

    Args:
        seeds: one (seed, index) a sample, see :func:`sample_seeds`.
        dtype: dtype of the draws; float64 keeps every digit, float32 rounds them.
    """

    def __init__(self, seeds: Sequence[SampleSeed], dtype: torch.dtype = torch.float32) -> None:
        self.seeds = list(seeds)
        self.dtype = dtype

    def draw(self, stream: str, number: int, shape: Sequence[int], span: Span | None = None) -> Tensor:
        count = int(np.prod(shape))
        rows = normal_rows([f"{seed}/{index}/{stream}" for seed, index in self.seeds], count, number)
        return torch.from_numpy(rows).to(self.dtype).reshape(len(self.seeds), *shape)
