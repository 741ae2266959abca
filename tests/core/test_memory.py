"""What this machine cannot hold is refused before it is tried."""

import pytest
import torch
from torch import nn

from reverie import nets, spaces
from reverie.core import memory
from reverie.core.errors import InputError
from reverie.nets.config import DiTConfig, UNetConfig
from reverie.spaces.config import SpaceConfig


def test_what_is_affordable_is_a_matter_of_this_machine(monkeypatch):
    monkeypatch.setattr(memory, "physical", lambda: 10**9)
    memory.afford(10**9, "it", "less")
    with pytest.raises(InputError, match=r"^it takes 1\.5 GB of memory or more, this machine has 1\.0 GB: less$"):
        memory.afford(15 * 10**8, "it", "less")
    monkeypatch.setattr(memory, "physical", lambda: None)
    memory.afford(10**30, "it", "less")


def test_a_large_module_is_counted_before_it_is_made_and_made_as_ever(monkeypatch):
    def make() -> nn.Module:
        made.append(torch.empty(0).device.type)
        return nn.Sequential(nn.Linear(9, 99), nn.BatchNorm1d(4), nn.Linear(99, 9))

    made: list[str] = []
    torch.manual_seed(0)
    expected = make().state_dict()
    for large, devices in ((10**9, ["cpu"]), (4 * 999, ["cpu", "meta", "cpu"])):
        monkeypatch.setattr(memory, "LARGE", large)
        made.clear()
        torch.manual_seed(0)
        state = memory.built(make, "it", "less").state_dict()
        assert made == devices and all(torch.equal(state[key], expected[key]) for key in expected)
    size = 4 * (9 * 99 + 99 + 8 + 99 * 9 + 9)
    monkeypatch.setattr(memory, "physical", lambda: size)
    memory.built(make, "it", "less")
    monkeypatch.setattr(memory, "physical", lambda: size - 1)
    made.clear()
    with pytest.raises(InputError, match="it takes"):
        memory.built(make, "it", "less")
    assert made == ["cpu", "meta"]
    nn.Linear(999, 999)  # afterwards nobody counts


def test_another_failure_is_its_own():
    def fail() -> nn.Module:
        raise RuntimeError("another")

    with pytest.raises(RuntimeError, match="another"):
        memory.built(fail, "it", "less")


@pytest.mark.parametrize(
    "make",
    [
        lambda: nets.build(DiTConfig(width=65_536, depth=50, heads=64), channels=3, size=32),
        lambda: nets.build(UNetConfig(width=65_536), channels=3, size=32),
        lambda: spaces.build(SpaceConfig(name="conv-vae", width=65_536), 3),
        lambda: spaces.build(SpaceConfig(name="patch-ae", patch=1_024, dims=65_536), 3),
    ],
)
def test_what_no_machine_of_100_gigabytes_holds_is_refused_at_once(monkeypatch, make):
    monkeypatch.setattr(memory, "physical", lambda: 10**11)
    with pytest.raises(InputError, match=r"memory.*choose a smaller"):
        make()
