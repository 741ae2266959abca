"""Random numbers of training: the same for an image whatever batch it comes in, and distributed as they should be."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from reverie.core.draws import Draws

KINDS = {
    "uniform": lambda rng: rng.uniform("s"),
    "even": lambda rng: rng.even("s"),
    "normal": lambda rng: rng.normal("s", (3, 7)),
}


@pytest.mark.parametrize("kind", KINDS)
@given(start=st.integers(0, 10**9), cuts=st.lists(st.integers(1, 40), min_size=1, max_size=4))
def test_an_image_gets_the_same_numbers_in_any_batch(kind: str, start: int, cuts: list[int]):
    whole = KINDS[kind](Draws(3, start, sum(cuts)))
    parts, at = [], start
    for cut in cuts:
        parts.append(KINDS[kind](Draws(3, at, cut)))
        at += cut
    assert torch.equal(whole, torch.cat(parts))


@pytest.mark.parametrize("kind", KINDS)
def test_seed_stream_and_position_change_the_numbers(kind: str):
    draw = KINDS[kind]
    base = draw(Draws(0, 0, 5))
    assert not torch.isclose(base, draw(Draws(1, 0, 5))).any()
    assert not torch.isclose(base, draw(Draws(0, 5, 5))).any()
    assert not torch.isclose(Draws(0, 0, 5).uniform("a"), Draws(0, 0, 5).uniform("b")).any()


def test_distributions():
    rng = Draws(0, 1000, 20_000)
    assert stats.kstest(rng.uniform("u").numpy(), "uniform").pvalue > 0.01
    normal = rng.normal("n", (5,))
    assert normal.dtype == torch.float32
    for column in normal.T:
        assert stats.kstest(column.numpy(), "norm").pvalue > 0.001
    assert (normal.T.double().cov() - torch.eye(5)).abs().max() < 0.03
    neighbours = torch.stack([normal[:-1, 0], normal[1:, 0]])
    assert abs(neighbours.corrcoef()[0, 1]) < 0.03


@pytest.mark.parametrize("start", [0, 12_345, 10**9])
def test_even_times_are_spread_like_a_stratified_batch(start: int):
    """Any 128 neighbours leave no gap of 3/128; independent uniforms practically always do."""

    def gap(u: torch.Tensor) -> float:
        u = u.sort().values
        return float((u[1:] - u[:-1]).max())

    rng = Draws(0, start, 128)
    assert gap(rng.even("time")) < 3 / 128
    assert gap(rng.uniform("time")) > 3 / 128
