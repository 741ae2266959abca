"""The Brownian tape: increments of one motion, standard normal, independent when disjoint, additive when adjoining."""

import math

import pytest
import torch

from reverie.core.brownian import BrownianTape
from reverie.core.noise import Tape, sample_seeds

from ..margin import apart

N = 10_000


def z(low: float, high: float, seed: int = 0, eta: float = 1.0) -> torch.Tensor:
    return BrownianTape([(seed, 0)], torch.float64, eta).draw("step", 0, (N,), (low, high))[0]


def increment(low: float, high: float, eta: float = 1.0) -> torch.Tensor:
    return z(low, high, eta=eta) * math.sqrt(math.exp(2 * eta * high) - math.exp(2 * eta * low))


@pytest.mark.parametrize(
    "span", [(-0.3, 0.4), (-6.0, -5.99), (1.0, 1.0 + 1e-3), (-math.inf, -4.0), (2.0, 5.5), (0.0, 0.5 * math.log(2.0))]
)
def test_each_draw_is_standard_normal(span) -> None:
    draw = z(*span)
    assert draw.mean().abs() < 4 / N**0.5
    assert draw.var().item() == pytest.approx(1.0, abs=4 * (2 / N) ** 0.5)
    assert (draw**4).mean().item() == pytest.approx(3.0, abs=4 * (96 / N) ** 0.5)


@pytest.mark.parametrize("nodes", [(-2.0, -1.7, -1.5, -1.4), (0.0, 1.0, 2.0, 4.0), (0.1, 0.101, 0.11, 0.2)])
def test_disjoint_moves_are_independent(nodes) -> None:
    draws = torch.stack([z(a, b) for a, b in zip(nodes, nodes[1:], strict=False)])  # noqa: RUF007
    off = torch.corrcoef(draws) - torch.eye(len(draws)).double()
    assert off.abs().max() < 4.5 / N**0.5


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_moves_that_split_an_interval_add_up(eta: float) -> None:
    whole = increment(-1.3, 2.2, eta)
    parts = increment(-1.3, 0.0, eta) + increment(0.0, 0.7, eta) + increment(0.7, 2.2, eta)
    torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-9)
    assert apart(z(-1.3, 2.3), z(-1.3, 2.2)) > 1e-2


def test_it_is_addressed_by_seed_and_interval_only() -> None:
    seeds = sample_seeds(4, 3)
    tape = BrownianTape(seeds)
    a = tape.draw("step", 0, (5,), (0.0, 0.3))
    assert torch.equal(a, tape.draw("step", 17, (5,), (0.0, 0.3)))
    assert torch.equal(a[1:2], BrownianTape([(4, 1)]).draw("step", 0, (5,), (0.0, 0.3))) and a.dtype == torch.float32
    assert not torch.equal(a[0], a[1])
    for stream in ("init", "renoise", "langevin"):  # where a revisit must be fresh
        assert torch.equal(tape.draw(stream, 3, (5,), (0.0, 0.3)), Tape(seeds).draw(stream, 3, (5,)))
