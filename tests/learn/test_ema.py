"""Averages of weights against their closed forms."""

import pytest
import torch
from torch import nn

from reverie.learn.ema import Ema, half_life, power


def follow(decay, steps: list[tuple[int, int]], values: list[float]) -> tuple[float, nn.Linear, Ema]:
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, values[0])
    module.double()
    ema = Ema(module, decay)
    for (before, after), value in zip(steps, values[1:], strict=True):
        nn.init.constant_(module.weight, value)
        ema.update(before, after)
    return float(ema.average["weight"]), module, ema


def test_half_life_forgets_half():
    average, _, _ = follow(half_life(300), [(0, 100), (100, 200), (200, 300)], [1.0, 0.0, 0.0, 0.0])
    assert average == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize("std", [0.05, 0.1, 0.2])
def test_power_function_has_the_width_it_is_named_after(std: float):
    """Karras et al. 2024, eq. 3: the weights the average gives to times in [0, 1] have standard deviation ``std``."""
    decay = power(std)
    times = torch.arange(1, 4001, dtype=torch.float64)
    kept = torch.tensor([decay(int(t) - 1, int(t)) for t in times], dtype=torch.float64)
    weights = (1 - kept) * torch.cat([kept.flip(0).cumprod(0).flip(0)[1:], torch.ones(1).double()])
    assert float(weights.sum()) == pytest.approx(1.0, abs=1e-9)
    where = times / len(times)
    mean = (weights * where).sum()
    assert float(((weights * (where - mean) ** 2).sum()).sqrt()) == pytest.approx(std, rel=0.01)


def test_power_function_has_forgotten_the_start():
    average, _, _ = follow(power(0.1), [(0, 16), (16, 32)], [1e6, 2.0, 2.0])
    assert average == 2.0


def test_applied_swaps_and_restores():
    average, module, ema = follow(half_life(100), [(0, 100)], [1.0, 0.0])
    module.train()
    with ema.applied():
        assert module.weight.item() == average == 0.5
        assert not module.training
    assert module.weight.item() == 0.0 and module.training and float(ema.average["weight"]) == 0.5


def test_applied_restores_after_an_error():
    _, module, ema = follow(half_life(100), [(0, 100)], [1.0, 0.0])
    with pytest.raises(ZeroDivisionError), ema.applied():
        _ = 1 / 0
    assert module.weight.item() == 0.0


def test_state_is_that_of_the_module_with_averaged_parameters_and_batch_statistics():
    module = nn.BatchNorm1d(2)
    ema = Ema(module, half_life(1))
    module(torch.randn(8, 2))
    nn.init.constant_(module.weight, 5.0)
    ema.update(0, 1)
    state = ema.state_dict()
    assert set(state) == set(module.state_dict())
    assert torch.equal(state["weight"], torch.full((2,), 3.0))
    torch.testing.assert_close(state["running_mean"], 0.5 * module.running_mean)
    assert torch.equal(state["num_batches_tracked"], module.num_batches_tracked)
