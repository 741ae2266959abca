"""What a run says it cost, against a network that counts by itself."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from reverie import guide
from reverie.core.condition import Cond, Label
from reverie.core.count import Count
from reverie.core.denoiser import NetDenoiser, Wrapper, counted
from reverie.core.schedules import Cosine
from reverie.solve import DDIM, Heun, sample


class Counting(nn.Module):
    """A linear network that counts the rows it sees, and the rows of the gradients it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.conditions = {"label": Label(3)}
        self.gain, self.rows, self.back = nn.Parameter(torch.tensor(0.5)), 0, 0

    def forward(self, x, time, cond=None):
        self.rows += len(x)
        out = self.gain * x
        if out.requires_grad:
            out.register_hook(self._hook)
        return out

    def _hook(self, gradient):
        self.back += len(gradient)


def model() -> NetDenoiser:
    return NetDenoiser(Counting(), Cosine(), "v", shape=(2,))


@pytest.mark.parametrize(("solver", "scale"), [(DDIM(), 1.0), (Heun(), 1.0), (DDIM(), 3.0), (Heun(), 3.0)])
def test_evaluations_are_counted_at_the_network(solver, scale):
    denoise = model()
    x, report = sample(guide.cfg(denoise, scale), 5, Cond(label=1), solver, 7, batch_size=2, report=True)
    assert x.shape == (5, 2)
    assert report.evaluations == denoise.net.rows / 5
    assert report.evaluations >= 7 * (2 if scale > 1 else 1)
    assert report.backwards == 0
    assert torch.equal(x, sample(guide.cfg(denoise, scale), 5, Cond(label=1), solver, 7, batch_size=2))


def test_backward_passes_are_counted_when_they_happen():
    """Through a whole run: one pass back per evaluation, after the run itself has ended."""
    denoise, count = model(), Count()
    sample(counted(denoise, count), 3, solver=DDIM(), steps=4).sum().backward()
    assert count.evaluations == denoise.net.rows == 12
    assert count.backwards == denoise.net.back > 0


def test_a_count_is_of_its_own_calls_and_counts_nest():
    denoise, inner, outer = model(), Count(), Count()
    both = counted(counted(denoise, inner), outer)
    both(torch.zeros(4, 2), 0.5)
    counted(denoise, inner)(torch.zeros(3, 2), 0.5)
    denoise(torch.zeros(5, 2), 0.5)
    assert (inner.evaluations, outer.evaluations) == (7, 4)


def test_two_threads_count_each_its_own():
    """Runs of different lengths over one network, many times over: a shared count would mix them."""
    denoise = model()

    def costs(steps: int, scale: float) -> set[float]:
        guided = guide.cfg(denoise, scale)
        return {sample(guided, 2, Cond(label=1), DDIM(), steps, report=True)[1].evaluations for _ in range(50)}

    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(costs, *how) for how in ((3, 1.0), (4, 2.0))]
        assert [run.result() for run in runs] == [{3.0}, {8.0}]


def test_what_takes_no_call_counts_as_one_evaluation():
    class Halved(Wrapper):
        def __call__(self, x, t, cond=None):
            return self.base(x / 2, t, cond)

    denoise = model()
    _, report = sample(Halved(denoise), 3, solver=Heun(), steps=4, report=True)
    assert report.evaluations == denoise.net.rows / 3
