"""The learning rate at its corners, and optimizer state there and back without a pickle."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from reverie.learn import TrainConfig
from reverie.learn.optim import build, factor, load_state, set_rate, state

from ..margin import apart

CONFIG = TrainConfig(images=1000, batch=10, warmup=100)


@pytest.mark.parametrize(
    ("decay", "middle", "end"), [("cosine", 0.5, 0.0), ("linear", 0.5, 0.0), ("constant", 1.0, 1.0)]
)
def test_factor(decay, middle: float, end: float):
    config = replace(CONFIG, decay=decay)
    assert factor(config, 0) == pytest.approx(0.1)
    assert factor(config, 50) == pytest.approx(0.6)
    assert factor(config, 100) == 1.0
    assert factor(config, 550) == pytest.approx(middle)
    assert factor(config, 1000) == pytest.approx(end)


def test_no_warmup():
    assert factor(replace(CONFIG, warmup=0), 0) == 1.0


def test_rate_scales_every_group_from_its_own():
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([{"params": [a], "lr": 1.0}, {"params": [b], "lr": 0.1}])
    for share in (0.5, 0.25):
        assert set_rate(optimizer, share) == share
        assert [g["lr"] for g in optimizer.param_groups] == [share, pytest.approx(0.1 * share)]


def steps(module: nn.Module, optimizer: torch.optim.Optimizer, count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        optimizer.zero_grad()
        module(torch.randn(4, 8, generator=generator)).square().mean().backward()
        optimizer.step()


class Net(nn.Sequential):
    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_state_survives(name):
    config = replace(CONFIG, optimizer=name)
    a, b, c = Net(), Net(), Net()
    optimizers = {key: build(module, config) for key, module in {"a": a, "b": b, "c": c}.items()}
    steps(a, optimizers["a"], 3, seed=1)
    tensors, scalars = state({"p": optimizers["a"]})
    b.load_state_dict(a.state_dict())
    c.load_state_dict(a.state_dict())
    load_state({"p": optimizers["b"]}, {k: v.clone() for k, v in tensors.items()}, scalars)
    for module, key in ((a, "a"), (b, "b"), (c, "c")):
        steps(module, optimizers[key], 2, seed=2)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert not all(torch.equal(p, q) for p, q in zip(a.parameters(), c.parameters(), strict=True))


def test_muon_and_adamw_are_different_optimizers():
    a, b = Net(), Net()
    steps(a, build(a, CONFIG), 1, seed=1)
    steps(b, build(b, replace(CONFIG, optimizer="muon")), 1, seed=1)
    assert apart(b[0].weight, a[0].weight) > 1e-3
