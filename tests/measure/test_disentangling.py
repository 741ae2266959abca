"""The mutual information gap: known joint tables, codes that are the factors, and codes that mix them."""

import math

import pytest
import torch

from reverie.core.errors import InputError
from reverie.measure.disentangling import discs, entropy, mutual_information, mutual_information_gap


def test_the_information_of_a_known_table():
    """p(z=v) = 3/8 each, p(z≠v) = 1/8 each: I = log 2 − H(¼)."""
    z = torch.tensor([0.0, 0, 0, 0, 1, 1, 1, 1])[:, None]
    v = torch.tensor([0, 0, 0, 1, 0, 1, 1, 1])[:, None]
    expected = math.log(2) + 0.25 * math.log(0.25) + 0.75 * math.log(0.75)
    assert mutual_information(z, v).item() == pytest.approx(expected, abs=1e-12)
    assert entropy(torch.tensor([1.0, 1.0, 0.0, 2.0])).item() == pytest.approx(1.5 * math.log(2))


def test_codes_that_are_the_factors_have_the_whole_gap_and_mixed_ones_have_none():
    factors = torch.cartesian_prod(torch.arange(8), torch.arange(8))
    codes = factors.float()
    torch.testing.assert_close(mutual_information_gap(codes, factors), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(
        mutual_information_gap(-3 * codes.flip(1) + 1, factors), torch.ones(2, dtype=torch.float64)
    )
    mixed = torch.stack([codes[:, 0] + codes[:, 1], codes[:, 0] - codes[:, 1]], 1)
    assert mutual_information_gap(mixed, factors).max() < 0.05
    twice = torch.cat([codes, codes], 1)  # two numbers that say the same
    assert mutual_information_gap(twice, factors).max() == 0.0


def test_numbers_that_know_nothing_have_no_gap():
    _, factors = discs(20_000)
    assert mutual_information_gap(torch.randn(20_000, 5), factors).max() < 0.01


def test_the_pictures_are_made_of_their_factors():
    x, factors = discs(500)
    assert x.shape == (500, 1, 16, 16) and x.abs().max() <= 1.0 and factors.min() == 0 and factors.max() == 7
    weight = x[:, 0] + 1
    column = (weight.sum(1) * torch.arange(16)).sum(1) / weight.sum((1, 2))
    bright = weight.amax((1, 2))
    for value, k in ((column, 0), (bright, 3)):
        r = torch.corrcoef(torch.stack([value, factors[:, k].float()]))[0, 1]
        assert r > 0.9
        assert torch.corrcoef(torch.stack([value, factors[:, 1].float()]))[0, 1].abs() < 0.2
    assert torch.equal(discs(500)[0], x) and not torch.equal(discs(500, seed=1)[0], x)


def test_what_does_not_fit_is_said():
    _, factors = discs(10)
    with pytest.raises(InputError, match="between two numbers"):
        mutual_information_gap(torch.randn(10, 1), factors)
    with pytest.raises(InputError, match="same pictures"):
        mutual_information_gap(torch.randn(9, 2), factors)
    with pytest.raises(InputError, match="factor 1 is the same"):
        mutual_information_gap(torch.randn(10, 2), torch.stack([factors[:, 0], torch.zeros(10).long()], 1))
