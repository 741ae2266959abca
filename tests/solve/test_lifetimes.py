"""What a run was made of dies with it: nothing that holds tensors or a network stays in a cache of the package."""

import gc
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from reverie import inverse
from reverie.core.condition import Cond
from reverie.core.denoiser import NetDenoiser
from reverie.core.paths import Custom
from reverie.core.schedules import VP
from reverie.guide.classifier import ClassifierMean, NetClassifier
from reverie.guide.freedom import FreeDoM
from reverie.inverse.operators import Inpaint, residual
from reverie.inverse.repaint import RePaint
from reverie.solve import DDIM, DDPM, Heun, Langevin, TableSolver, iterate, sample
from reverie.solve.iterating import _remembered


class Net(nn.Module):
    conditions: dict = {}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 1)

    def forward(self, x, time, cond=None):
        return self.layer(x) * (1.0 + time)


class Judge(nn.Module):
    def forward(self, x, time):
        return torch.stack([x.flatten(1).sum(1), -x.flatten(1).sum(1)], 1)


@dataclass(frozen=True)
class Learned(TableSolver):
    """A table whose rows a network gives."""

    net: nn.Module

    def rows(self, schedule, points):
        return DDIM().rows(schedule, points)


def measured(make: Callable[[torch.Tensor], Any]) -> Callable[[], tuple[Any, list[Any]]]:
    def build() -> tuple[Any, list[Any]]:
        y = torch.zeros(1, 1, 2, 2)
        return make(y), [y]

    return build


def judged() -> tuple[Any, list[Any]]:
    net = Judge()
    return ClassifierMean(NetClassifier(net, VP(), 2, shape=(1, 2, 2)), Cond(label=1)), [net]


def learned() -> tuple[Any, list[Any]]:
    net = Net()
    return Learned(net), [net]


SOLVERS = {
    "RePaint": measured(lambda y: RePaint(Inpaint(torch.eye(2)), y)),
    "FreeDoM": measured(lambda y: FreeDoM(DDPM(), residual(Inpaint(torch.eye(2)), y))),
    "dps": measured(lambda y: inverse.dps(Inpaint(torch.eye(2)), y, 1.0)),
    "Langevin of RePaint": measured(lambda y: Langevin(RePaint(Inpaint(torch.eye(2)), y))),
    "ClassifierMean": judged,
    "a table with a network": learned,
}


@pytest.mark.parametrize("name", SOLVERS)
def test_a_solver_dies_with_its_run(name):
    solver, held = SOLVERS[name]()
    refs = [weakref.ref(solver), *map(weakref.ref, held)]
    denoise = NetDenoiser(Net(), VP(), "v", shape=(1, 2, 2))
    sample(denoise, 2, solver=solver, steps=3)
    list(iterate(denoise, 2, solver=solver, steps=3))
    del solver, held
    gc.collect()
    assert [ref() for ref in refs] == [None] * len(refs)


def test_a_path_that_a_network_gives_dies_with_it():
    def path(net: nn.Module) -> Custom:
        return Custom(lambda t: 1.0 - t + 0.0 * net(torch.ones(1).double()).sum(), lambda t: t)

    net = nn.Linear(1, 1).double().requires_grad_(False)
    ref = weakref.ref(net)
    schedule = path(net)
    sample(NetDenoiser(Net(), schedule, "v", shape=(1, 2, 2)), 2, solver=Heun(), steps=3)
    del net, schedule
    gc.collect()
    assert ref() is None


def test_a_network_dies_with_its_denoiser():
    net = Net()
    ref = weakref.ref(net)
    with torch.no_grad():
        sample(NetDenoiser(net, VP(), "v", shape=(1, 2, 2)), 20, steps=3)
    del net
    gc.collect()
    assert ref() is None


def test_a_plan_of_numbers_is_made_once():
    denoise = NetDenoiser(Net(), VP(3.14), "v", shape=(1, 2, 2))
    before = _remembered.cache_info()
    for _ in range(3):
        sample(denoise, solver=DDIM(0.123), steps=3)
    after = _remembered.cache_info()
    assert (after.misses - before.misses, after.hits - before.hits) == (1, 2)
