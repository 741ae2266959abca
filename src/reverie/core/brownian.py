"""A Brownian tape: noise addressed by (seed, λ interval), so that coarse and fine stochastic solutions share one path."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from reverie.core.noise import SampleSeed, Span, Tape, normal_rows

_DEPTH = 10
_FLOOR = -20.0


class BrownianTape(Tape):
    """Increments of one Brownian motion W a sample in the clock ``c = e^(2ηλ)``, normalised: ``z = (W(c_u) − W(c_t))/√(c_u − c_t)``.

    The noise of the reverse SDE over a move is exactly such an increment (``x·e^(ηλ)/σ`` is driven by W), so moves that split an
    interval add up to the same noise as one over all of it. W is a virtual Brownian tree (Li et al. 2020): within each octave of c
    bridges halve the interval ten times, each node hashed from its address, and the last bridge is drawn at c itself; two ends closer
    than a leaf, 0.1 % of an octave, are drawn independently given the leaf. Streams other than "step" are those of the plain tape.

    Args:
        seeds: as for :class:`Tape`.
        dtype: as for :class:`Tape`.
        eta: of the solver, in the convention of the SDE (1 for ancestral sampling).
    """

    def __init__(self, seeds: Sequence[SampleSeed], dtype: torch.dtype = torch.float32, eta: float = 1.0) -> None:
        super().__init__(seeds, dtype)
        self.eta = eta

    def draw(self, stream: str, number: int, shape: Sequence[int], span: Span | None = None) -> Tensor:
        if stream != "step" or span is None:
            return super().draw(stream, number, shape, span)
        count = int(np.prod(shape))
        first, last = (math.exp(2.0 * self.eta * max(lam, _FLOOR)) for lam in span)
        rows = _increment([f"{seed}/{index}/brownian" for seed, index in self.seeds], first, last, count)
        return torch.from_numpy(rows / math.sqrt(last - first)).to(self.dtype).reshape(len(self.seeds), *shape)


def _increment(keys: Sequence[str], first: float, last: float, count: int) -> np.ndarray:
    """W(last) − W(first) of each sample, (B, count), by octaves [2^k, 2^(k+1))."""
    low, high = _octave(first), _octave(last)
    total = _within(keys, high, last, count) - _within(keys, low, first, count)
    for k in range(low, high):
        total += _whole(keys, k, count)
    return total


def _octave(c: float) -> int:
    return math.frexp(c)[1] - 1


def _normals(keys: Sequence[str], place: str, count: int, node: int = 0) -> np.ndarray:
    return normal_rows([f"{key}/{place}" for key in keys], count, node)


def _whole(keys: Sequence[str], k: int, count: int) -> np.ndarray:
    """W(2^(k+1)) − W(2^k)."""
    return math.sqrt(2.0**k) * _normals(keys, f"{k}", count)


def _within(keys: Sequence[str], k: int, c: float, count: int) -> np.ndarray:
    """W(c) − W(2^k) for c in the octave."""
    left, right, node = 2.0**k, 2.0 ** (k + 1), 1
    at_left, at_right = np.zeros((len(keys), count)), _whole(keys, k, count)
    for _ in range(_DEPTH):
        if c == left:
            return at_left
        middle, spread = 0.5 * (left + right), 0.5 * math.sqrt(right - left)
        at_middle = 0.5 * (at_left + at_right) + spread * _normals(keys, f"{k}", count, node)
        if c < middle:
            right, at_right, node = middle, at_middle, 2 * node
        else:
            left, at_left, node = middle, at_middle, 2 * node + 1
    share = (c - left) / (right - left)
    bridge = math.sqrt((right - left) * share * (1.0 - share))
    return (1.0 - share) * at_left + share * at_right + bridge * _normals(keys, f"{k}/{c.hex()}", count)
