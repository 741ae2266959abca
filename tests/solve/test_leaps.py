"""Flow maps of networks: told where a leap ends, exact at no leap, drawn in leaps with and without renoising."""

import pytest
import torch
from torch import nn

import reverie as rv
from reverie import nets
from reverie.core.condition import Cond
from reverie.core.denoiser import NetDenoiser
from reverie.core.errors import InputError
from reverie.core.exact import Gaussian
from reverie.core.flow_map import UNTIL, NetFlowMap
from reverie.core.noise import Tape, sample_seeds
from reverie.core.schedules import VP, Flow
from reverie.nets.config import DiTConfig, JiTConfig, MMDiTConfig, UNetConfig, UViTConfig
from reverie.solve import GaussianMap, Leaps

SMALL = {
    "dit": DiTConfig(width=32, depth=2),
    "unet": UNetConfig(width=32, multipliers=(1, 2), blocks=1, attention=(2,)),
    "uvit": UViTConfig(width=32, depth=3),
    "mmdit": MMDiTConfig(width=32, depth=2, context=0),
    "jit": JiTConfig(width=32, depth=2, context_start=1),
}
COND = Cond(label=[0, 1, 2])


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    net = nets.build(SMALL[name], channels=1, size=(8, 8), classes=3)
    for weight in net.parameters():
        nn.init.normal_(weight, std=0.1)
    return net


def flow_map(name: str = "dit", schedule=None, *, second: bool = True, kind: str = "flow") -> NetFlowMap:
    net = network(name)
    if second:
        net.listen(UNTIL)  # pyright: ignore[reportCallIssue]
    return NetFlowMap(NetDenoiser(net, schedule or Flow(), kind, shape=(1, 8, 8)))


@pytest.mark.parametrize("name", SMALL)
def test_a_network_that_begins_to_listen_is_what_it_was_and_then_hears(name):
    x, before = torch.randn(3, 1, 8, 8), NetDenoiser(network(name), Flow(), shape=(1, 8, 8))
    after = flow_map(name)
    assert torch.equal(after.estimate(x, 0.5, 0.1, COND).out, before(x, 0.5, COND).out)
    for key, weight in after.denoise.net.named_parameters():
        if f"{UNTIL}.outer.weight" in key:
            nn.init.normal_(weight)
    heard = [after.estimate(x, 0.5, s, COND).out for s in (0.5, 0.1, torch.tensor([0.1, 0.5, 0.1]))]
    assert not torch.allclose(heard[0], heard[1])
    assert torch.allclose(heard[2][1], heard[0][1], atol=1e-6) and torch.allclose(heard[2][0], heard[1][0], atol=1e-6)


@pytest.mark.parametrize(("schedule", "kind"), [(Flow(), "flow"), (VP(), "v"), (VP(), "eps")])
def test_no_leap_is_exact_and_one_to_the_end_is_x0(schedule, kind):
    leaper, x = flow_map(schedule=schedule, kind=kind), torch.randn(3, 1, 8, 8)
    t = torch.tensor([0.2, 0.7, 0.9], dtype=torch.float64)
    assert torch.equal(leaper(x, t, t, COND), x) and torch.equal(leaper(x, 0.3, 0.3, COND), x)
    clean = schedule.clean()
    x0 = leaper.estimate(x, 0.6, clean, COND).x0
    assert torch.allclose(leaper(x, 0.6, clean, COND), x0, atol=1e-4 * float(x0.detach().abs().max()))


def test_a_map_without_a_second_time_says_so_and_renoises():
    leaper = flow_map(second=False)
    x = torch.randn(2, 1, 8, 8)
    with pytest.raises(InputError, match="clean data only, not to t = 0.2"):
        leaper(x, 0.5, 0.2)
    seeds = sample_seeds(3, 2)
    drawn = Leaps(leaper, steps=2).sample(2, Cond(label=1), seed=3)
    tape, cond = Tape(seeds), Cond(label=1).expand(2)
    first = leaper(tape.draw("init", 0, (1, 8, 8)), 1.0, leaper.schedule.clean(), cond)
    again = 0.5 * first + 0.5 * tape.draw("renoise", 0, (1, 8, 8))
    assert torch.allclose(drawn, leaper(again, 0.5, leaper.schedule.clean(), cond), atol=1e-6)
    assert torch.equal(drawn, rv.sample(leaper, 2, Cond(label=1), steps=2, seed=3))


def test_a_sample_is_the_same_in_any_batch():
    leaper = flow_map(second=False)
    whole = rv.sample(leaper, 5, Cond(label=1), steps=3, seed=1)
    parts = rv.sample(leaper, 5, Cond(label=1), steps=3, seed=1, batch_size=2)
    assert torch.allclose(whole, parts, atol=1e-5)


def test_other_steps_than_it_was_made_for_are_drawn_with_a_warning():
    made = NetFlowMap(flow_map(second=False).denoise, trained=(1, 2))
    with pytest.warns(UserWarning, match="made to draw in 1 or 2 steps, not in 3"):
        assert len(rv.sample(made, 2, Cond(label=0), steps=3)) == 2
    assert torch.equal(rv.sample(made, 2, Cond(label=0)), rv.sample(made, 2, Cond(label=0), steps=1))


@pytest.mark.parametrize("schedule", [Flow(), VP()])
def test_the_exact_map_of_a_gaussian_is_where_its_flow_goes(schedule):
    data = Gaussian(
        torch.tensor([1.0, 2.0], dtype=torch.float64), torch.tensor([[1.0, 0.3], [0.3, 0.5]], dtype=torch.float64)
    )
    exact, start = GaussianMap(data, schedule), schedule.point(0.9)
    x = torch.randn(16, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    errors = []
    for steps in (50, 100):
        flowed = rv.sample(
            data.denoiser(schedule), x=x, solver="heun", steps=steps, ends=(start.logsnr, schedule.point(0.1).logsnr)
        )
        errors.append(float((exact(x, 0.9, 0.1) - flowed).abs().max()))
    assert errors[1] < 1e-3 and errors[0] / errors[1] > 3.0
    halves = exact(exact(x, 0.9, 0.4), 0.4, 0.1)
    assert torch.allclose(halves, exact(x, 0.9, 0.1), atol=1e-12) and torch.allclose(exact(x, 0.3, 0.3), x, atol=1e-14)
