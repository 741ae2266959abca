"""Numbers that are not finite: refused where they are given, found at the end of a run, and traced to where they began."""

import math

import pytest
import torch
from torch import nn

from reverie import guide, inverse
from reverie.core.condition import Cond, Label
from reverie.core.denoiser import NetDenoiser, Wrapper
from reverie.core.errors import InputError, RunError
from reverie.core.estimate import Estimate
from reverie.core.schedules import Flow
from reverie.guide.freedom import Constant, FreeDoM, Relative
from reverie.inverse.operators import Inpaint
from reverie.inverse.repaint import RePaint
from reverie.solve import DDIM, DDPM, Heun, invert, round_trip, sample
from reverie.solve.ending import check_finite

NAN, INF = math.nan, math.inf


class Net(nn.Module):
    conditions = {"label": Label(3)}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Conv2d(1, 1, 3, padding=1)
        self.table = nn.Embedding(4, 1)

    def forward(self, x, time, cond=None):
        if cond is None:
            return self.layer(x)
        entry = cond["label"]
        return self.layer(x) + self.table(torch.where(entry.present, entry.value, 3))[..., None, None]


def model() -> NetDenoiser:
    return NetDenoiser(Net().requires_grad_(False), Flow(), "flow", shape=(1, 4, 4))


class Sick(Wrapper):
    """NaN for one sample of a batch, from a time on towards the data."""

    def __init__(self, base, below: float, value: float = NAN) -> None:
        super().__init__(base)
        self.below, self.value, self.calls = below, value, 0

    def __call__(self, x, t, cond=None) -> Estimate:
        self.calls += 1
        estimate = self.base(x, t, cond)
        if estimate.point.t > self.below:
            return estimate
        out = estimate.out.clone()
        out[-1, 0, 0, 0] = self.value
        return estimate.replace(out)


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("step", [1, 3, 5])
def test_the_step_at_which_it_began_is_named(step, value):
    sick = Sick(model(), 1.0 - (step - 1) / 5 + 1e-6, value)
    with pytest.raises(RunError, match=rf"not finite from step {step} \(logsnr"):
        sample(sick, 3, Cond(label=1), solver=DDIM(), grid="time", steps=5)


def test_it_is_found_in_whichever_batch_it_lies():
    class Last(Sick):
        def __call__(self, x, t, cond=None) -> Estimate:
            return super().__call__(x, t, cond) if len(x) == 1 else self.base(x, t, cond)

    for size in (2, 4):
        with pytest.raises(RunError, match="from step 2 "):
            sample(Last(model(), 0.8), 5, Cond(label=1), solver=DDIM(), grid="time", steps=5, batch_size=size)


def test_a_run_that_ends_well_is_looked_at_once(monkeypatch):
    """No read of the device at a step: one at the end, whatever the batches and steps."""
    from reverie.core import tensors

    reads = []
    whole = tensors.finite
    for module in ("reverie.solve.ending", "reverie.solve.sampling"):
        monkeypatch.setattr(f"{module}.finite", lambda x: (reads.append(x.shape), whole(x))[1])
    counted = Sick(model(), -1.0)
    sample(counted, 5, Cond(label=1), solver=DDIM(), steps=6, batch_size=2)
    assert reads == [(5, 1, 4, 4)] and counted.calls == 18


@pytest.mark.parametrize("place", ["layer.weight", "layer.bias", "table.weight"])
def test_a_weight_that_is_not_finite_is_named(place):
    denoise = model()
    with torch.no_grad():
        denoise.net.get_parameter(place).flatten()[0] = NAN
    with pytest.raises(RunError, match=rf"estimate is not finite from step 1 .*weight '{place}' holds"):
        sample(denoise, 2, Cond(label=0), steps=4)


def test_a_scale_that_overflows_says_so():
    with pytest.raises(RunError, match=r"not finite .*the guidance scale is 1e\+30"):
        sample(guide.cfg(model(), 1e30), 2, Cond(label=0), steps=8)


def test_what_was_given_is_not_finite():
    x = torch.zeros(2, 1, 4, 4)
    x[1, 0, 2, 2] = INF
    for run in (
        lambda: sample(model(), x=x, steps=3),
        lambda: sample(model(), x=x, start=0.5, steps=3),
        lambda: invert(model(), x, steps=3),
        lambda: round_trip(model(), x, steps=3),
    ):
        with pytest.raises(InputError, match="starts from numbers that are not finite"):
            run()


def test_inversion_is_looked_at_too():
    with pytest.raises(RunError, match=r"from step 1 "):
        invert(Sick(model(), 0.3, INF), torch.zeros(1, 1, 4, 4), steps=2, grid="time", solver=Heun("straight"))


def test_a_space_that_makes_nan_of_a_finite_run():
    class Space:
        def encode(self, x):
            return x

        def decode(self, z):
            return z * NAN

    denoise = model()
    denoise.space = Space()  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(RunError, match="the run is finite, and what its space makes of it is not"):
        sample(denoise, 2, steps=3)


def test_gradients_and_transforms_pass():
    denoise, x = model(), torch.randn(2, 1, 4, 4)
    x.requires_grad_()
    (slope,) = torch.autograd.grad(sample(denoise, x=x, steps=3, solver=DDIM()).sum(), x)
    assert slope.abs().sum() > 0

    def run(z: torch.Tensor) -> torch.Tensor:
        return sample(denoise, x=z[None], steps=3, solver=DDIM())[0]

    z = torch.randn(3, 1, 4, 4)
    torch.testing.assert_close(torch.func.vmap(run)(z), torch.stack([run(row) for row in z]), rtol=1e-4, atol=1e-5)
    torch.func.jvp(run, (z[0],), (z[1],))
    check_finite(denoise, x, None, list)  # finite: nothing to say


MAKERS = {
    "cfg": lambda v: guide.cfg(model(), v),
    "cfg, one a sample": lambda v: guide.cfg(model(), torch.tensor([1.0, v])),
    "auto": lambda v: guide.auto(model(), model(), v),
    "apg": lambda v: guide.apg(model(), v),
    "apg parallel": lambda v: guide.apg(model(), 2.0, parallel=v),
    "rescaled": lambda v: guide.rescaled(model(), v),
    "rescaled amount": lambda v: guide.rescaled(model(), 2.0, v),
    "compose": lambda v: guide.compose(model(), [(Cond(label=0), v)]),
    "threshold": lambda v: guide.threshold(model(), limit=v),
    "threshold quantile": lambda v: guide.threshold(model(), v),
    "energy": lambda v: guide.energy(model(), lambda x: x.sum((1, 2, 3)), v),
    "pigdm": lambda v: inverse.pigdm(model(), Inpaint(torch.ones(4, 4)), torch.zeros(1, 1, 4, 4), v),
    "windows": lambda v: guide.windows(model(), (4, 4), regions=[(torch.full((4, 4), v), Cond(label=0))]),
    "RePaint": lambda v: RePaint(Inpaint(torch.ones(4, 4)), torch.zeros(1, 1, 4, 4), v),
    "FreeDoM": lambda v: FreeDoM(DDPM(), lambda x: x.sum((1, 2, 3)), v),
    "dps": lambda v: inverse.dps(Inpaint(torch.ones(4, 4)), torch.zeros(1, 1, 4, 4), v),
    "Relative": Relative,
    "Constant": Constant,
    "restore": lambda v: inverse.restore(model(), Inpaint(torch.ones(4, 4)), torch.zeros(1, 1, 4, 4), noise=v),
}


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("name", MAKERS)
def test_a_scale_that_is_not_finite_is_refused_where_it_is_given(name, value):
    with pytest.raises(InputError):
        MAKERS[name](value)
