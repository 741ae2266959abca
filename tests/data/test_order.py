"""The training order is a stream that only depends on the seed."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reverie.data import order

seeds = st.integers(0, 2**63 - 1)


@given(seed=seeds, n=st.integers(1, 50), cuts=st.lists(st.integers(0, 40), min_size=1, max_size=8))
def test_any_chunking_gives_the_same_streams(seed, n, cuts):
    whole, coins = order.indices(seed, 0, sum(cuts), n), order.flips(seed, 0, sum(cuts))
    starts = np.cumsum([0, *cuts[:-1]])
    pairs = list(zip(starts.tolist(), cuts, strict=True))
    assert torch.equal(torch.cat([order.indices(seed, start, count, n) for start, count in pairs]), whole)
    assert torch.equal(torch.cat([order.flips(seed, start, count) for start, count in pairs]), coins)


@given(seed=seeds, n=st.integers(1, 300), epoch=st.integers(0, 2**40))
def test_each_epoch_is_a_permutation(seed, n, epoch):
    assert sorted(order.indices(seed, epoch * n, n, n).tolist()) == list(range(n))


def test_epochs_and_seeds_differ():
    first, second = order.indices(0, 0, 200, 100).view(2, 100)
    assert not torch.equal(first, second)
    assert not torch.equal(first, order.indices(1, 0, 100, 100))


def test_order_is_uniform():
    """Over 2,000 epochs of five pictures, each of the 120 orders occurs about equally often (chi-square, p > 1e-4)."""
    from scipy.stats import chisquare

    epochs = order.indices(3, 0, 10_000, 5).view(-1, 5)
    _, counts = torch.unique(epochs, dim=0, return_counts=True)
    assert len(counts) == 120
    assert chisquare(counts.numpy()).pvalue > 1e-4


def test_flips_are_fair_and_independent():
    coins = order.flips(5, 777, 100_000).double()
    assert coins.mean() == pytest.approx(0.5, abs=0.01)
    assert torch.corrcoef(torch.stack([coins[1:], coins[:-1]]))[0, 1].abs() < 0.015


def test_order_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    order.indices(0, 0, 10, 5)
    order.flips(0, 0, 10)
    assert torch.equal(torch.get_rng_state(), state)


def test_philox_bits_are_the_published_algorithm():
    """Random123's known answer for Philox4x64-10 with counter and key zero (numpy counts up before it draws)."""
    words = np.random.Philox(key=0, counter=[2**64 - 1] * 4).random_raw(4)
    assert [f"{word:016x}" for word in words] == [
        "16554d9eca36314c", "db20fe9d672d0fdc", "d7e772cee186176b", "7e68b68aec7ba23b",
    ]  # fmt: skip


@pytest.mark.parametrize("arguments", [(0, -1, 1, 5), (0, 0, -1, 5), (0, 0, 1, 0)])
def test_impossible_positions_are_refused(arguments):
    with pytest.raises(ValueError, match="got"):
        order.indices(*arguments)
