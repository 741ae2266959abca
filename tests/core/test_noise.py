"""The noise tape: addressed, independent, standard normal, and bit for bit the same everywhere."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from reverie.core.errors import InputError
from reverie.core.noise import Tape, normals, sample_seeds


def test_seeds_are_addresses() -> None:
    assert sample_seeds(5, 3) == [(5, 0), (5, 1), (5, 2)]
    assert sample_seeds([7, 5], 2) == [(7, 0), (5, 0)]
    assert sample_seeds([(7, 3), (5, 1)], 2) == [(7, 3), (5, 1)]
    with pytest.raises(InputError, match="3 seeds for 2 samples"):
        sample_seeds([1, 2, 3], 2)


@given(st.integers(0, 2**70), st.integers(0, 10**9), st.sampled_from(["init", "step"]), st.integers(0, 2**40))
def test_a_draw_depends_on_its_address_only(seed: int, index: int, stream: str, number: int) -> None:
    one = Tape([(seed, index)]).draw(stream, number, (2, 3))
    many = Tape([(-1, 1), (seed, index), (-2, 2)]).draw(stream, number, (2, 3))
    assert torch.equal(one[0], many[1]) and not torch.equal(many[0], many[1])
    for other in (Tape([(seed + 1, index)]), Tape([(seed, index + 1)])):
        assert not torch.equal(other.draw(stream, number, (2, 3)), one)
    assert not torch.equal(Tape([(seed, index)]).draw(stream, number + 1, (2, 3)), one)
    assert not torch.equal(Tape([(seed, index)]).draw("other", number, (2, 3)), one)


def test_seeds_that_agree_in_their_low_bits_differ() -> None:
    """torch's CPU generator reads the low 32 bits of a seed only, so hashed keys would collide."""
    low, high = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3 + 2**32)
    assert torch.equal(torch.randn(4, generator=low), torch.randn(4, generator=high))
    assert not torch.equal(Tape([(3, 0)]).draw("init", 0, (4,)), Tape([(3 + 2**32, 0)]).draw("init", 0, (4,)))


def test_draws_are_standard_normal_and_independent() -> None:
    draws = Tape(sample_seeds(0, 40), torch.float64).draw("step", 0, (500,)).numpy()
    assert stats.kstest(draws.ravel(), "norm").pvalue > 1e-3
    across = np.corrcoef(draws)
    assert np.abs(across - np.eye(40)).max() < 5 / np.sqrt(500)
    pairs = normals("key", 20_000)
    assert abs(np.corrcoef(pairs[:10_000], pairs[10_000:])[0, 1]) < 0.04  # the two halves of Box-Muller


def test_counters_do_not_overlap() -> None:
    """Draw 1 of a stream is no shifted copy of draw 0: each has its own block of the counter, whatever its length."""
    first, second = normals("key", 4096, 0), normals("key", 4096, 1)
    assert not np.intersect1d(first, second).size


def test_dtype_rounds_the_same_draw() -> None:
    wide = Tape([(0, 0)], torch.float64).draw("init", 0, (3, 4))
    narrow = Tape([(0, 0)]).draw("init", 0, (3, 4))
    assert narrow.dtype == torch.float32 and torch.equal(wide.float(), narrow)


def test_odd_counts_and_scalars() -> None:
    assert len(normals("a", 7)) == 7 and Tape([(0, 0)]).draw("init", 0, ()).shape == (1,)


def test_the_hash_is_the_specified_one() -> None:
    """BLAKE2b-128 of the address keys Philox4x64; Box-Muller on the high 53 bits: written out independently."""
    from hashlib import blake2b

    key = np.frombuffer(blake2b(b"12/3/step", digest_size=16).digest(), dtype="<u8")
    words = np.random.Philox(key=key, counter=[0, 0, 9, 0]).random_raw(4)
    u = [(int(w) // 2**11 + 0.5) / 2**53 for w in words]
    expected = [
        (-2 * np.log(u[0])) ** 0.5 * np.cos(2 * np.pi * u[2]),
        (-2 * np.log(u[1])) ** 0.5 * np.cos(2 * np.pi * u[3]),
    ]
    got = Tape([(12, 3)], torch.float64).draw("step", 9, (4,))[0, :2]
    assert got.tolist() == pytest.approx(expected, rel=1e-14)
