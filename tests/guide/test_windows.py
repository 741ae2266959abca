"""Windows against the model itself and against a factorised density; blocks left out."""

import math

import pytest
import torch

from reverie import guide, nets
from reverie.core.condition import Cond
from reverie.core.denoiser import NetDenoiser
from reverie.core.errors import InputError
from reverie.core.exact import Gaussian
from reverie.core.schedules import Cosine, Flow
from reverie.nets import DiTConfig, UNetConfig
from reverie.solve import DDIM, Heun, sample

from ..margin import apart
from .closed_form import Switch, normal


def digits(config=None):
    """A small network with random weights, zero nowhere."""
    torch.manual_seed(0)
    config = config or DiTConfig(patch=2, width=16, depth=3, heads=2)
    net = nets.build(config, channels=1, size=8, classes=3)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return NetDenoiser(net.eval().requires_grad_(False), Flow(), "flow", shape=(1, 8, 8))


@pytest.mark.parametrize("guided", [False, True])
def test_one_full_window_is_the_base_bit_for_bit(guided):
    base = guide.cfg(digits(), 2.5) if guided else digits()
    cond = Cond(label=[0, 1, 2])
    alone = sample(base, 3, cond, steps=6, seed=4)
    assert torch.equal(sample(guide.windows(base, (8, 8)), 3, cond, steps=6, seed=4), alone)
    assert apart(sample(guide.windows(base, (8, 8)), 3, cond, steps=6, seed=5), alone) > 0.1


@pytest.mark.parametrize("stride", [1, 3, 4])
def test_where_pixels_are_independent_the_canvas_is_the_direct_wide_sampler(stride):
    small, wide = normal(0.3, 0.4, Flow(), (1, 4, 4)), normal(0.3, 0.4, Flow(), (1, 4, 11))
    canvas = guide.windows(small, (4, 11), stride)
    assert canvas.shape == (1, 4, 11)
    run = {"n": 2, "solver": Heun(), "steps": 8, "seed": 1}
    assert torch.allclose(sample(canvas, **run), sample(wide, **run), atol=1e-6)


def test_overlap_closes_the_seams():
    """Rows of a stationary Gaussian process: the jump across a window's border, in units of a usual one, is large without overlap."""
    n, long = 8, 24
    line = torch.arange(long, dtype=torch.float64)
    covariance = torch.exp(-((line[:, None] - line) ** 2) / 18.0) + 1e-6 * torch.eye(long, dtype=torch.float64)
    small = Gaussian(torch.zeros(1, 1, n, dtype=torch.float64), covariance[:n, :n]).denoiser(Cosine())

    def jumps(stride: int) -> float:
        x = sample(guide.windows(small, (1, long), stride), 200, solver=DDIM(), steps=12, seed=0)[:, 0, 0]
        steps = x.diff(dim=1).square().mean(0)
        seams = torch.zeros(long - 1, dtype=torch.bool)
        seams[[n - 1, 2 * n - 1]] = True
        return float(steps[seams].mean() / steps[~seams].mean())

    assert jumps(8) > 10.0
    assert jumps(2) < 2.0


def test_regions_hold_their_own_condition():
    """Half the canvas of one class, half of another; the pixels are independent, so each half is exactly its class."""
    one, two = normal(2.0, 0.3, Flow(), (1, 4, 4)), normal(-2.0, 0.3, Flow(), (1, 4, 4))
    base = Switch(one, two)
    left = torch.zeros(4, 10)
    left[:, :5] = 1.0
    canvas = guide.windows(base, (4, 10), 2, [(left, Cond(label=0)), (1.0 - left, Cond(label=0).null())])
    x = sample(canvas, 50, solver=Heun(), steps=12)
    assert float(x[..., :5].mean()) == pytest.approx(2.0, abs=0.05)
    assert float(x[..., 5:].mean()) == pytest.approx(-2.0, abs=0.05)

    soft = guide.windows(
        base, (4, 10), 2, [(torch.full((4, 10), 2.0), Cond(label=0)), (torch.ones(4, 10), Cond(label=0).null())]
    )
    state = torch.randn(2, 1, 4, 10, dtype=torch.float64)
    wide = [normal(m, 0.3, Flow(), (1, 4, 10))(state, 0.5).x0 for m in (2.0, -2.0)]
    assert torch.allclose(soft(state, 0.5).x0, 0.8 * wide[0] + 0.2 * wide[1], atol=1e-9)  # weights squared: 4 to 1


def test_evaluations_are_those_of_the_windows():
    small = normal(0.0, 1.0, Flow(), (1, 4, 4))
    _, report = sample(guide.windows(small, (4, 10), 2), 3, solver=DDIM(), steps=5, report=True)
    assert report.evaluations == 5 * 4
    half = torch.ones(4, 10)
    half[:, 4:] = 0.0
    base = Switch(small, small)
    canvas = guide.windows(base, (4, 10), 4, [(half, Cond(label=0)), (1.0 - half, Cond(label=0))])
    _, report = sample(canvas, 3, solver=DDIM(), steps=5, report=True)
    assert report.evaluations == 2 * 5 * 3  # each of three windows lies in one region only; Switch evaluates two models


def test_no_sample_depends_on_its_batch():
    canvas = guide.windows(digits(), (8, 20), 4)
    together = sample(canvas, 3, Cond(label=1), steps=5)
    alone = torch.cat([sample(canvas, 1, Cond(label=1), steps=5, seed=[(0, i)]) for i in range(3)])
    assert torch.allclose(together, alone, atol=1e-5)


def test_mistakes_are_named():
    small = normal(0.0, 1.0, Flow(), (1, 4, 4))
    with pytest.raises(InputError, match=r"at least one window of 4x4"):
        guide.windows(small, (4, 3))
    with pytest.raises(InputError, match=r"moved by at least 1"):
        guide.windows(small, (4, 8), 0)
    base = Switch(small, small)
    with pytest.raises(InputError, match=r"cover the canvas"):
        guide.windows(base, (4, 8), 2, [(torch.ones(4, 4), Cond(label=0))])
    hole = torch.ones(4, 8)
    hole[2, 5] = 0.0
    with pytest.raises(InputError, match=r"row 2, column 5"):
        guide.windows(base, (4, 8), 2, [(hole, Cond(label=0))])
    with pytest.raises(InputError, match=r"not negative"):
        guide.windows(base, (4, 8), 2, [(-hole, Cond(label=0))])
    with pytest.raises(InputError, match=r"pass no cond"):
        guide.windows(base, (4, 8), 2, [(torch.ones(4, 8), Cond(label=0))])(torch.zeros(1, 1, 4, 8), 0.5, Cond(label=0))


def test_a_network_without_a_block_is_the_network_built_without_it():
    whole = digits()
    less = guide.without(whole, ["blocks.1"])
    x, t = torch.randn(2, 1, 8, 8), torch.tensor(0.5)
    before = whole(x, t, Cond(label=1)).out
    got = less(x, t, Cond(label=1)).out
    blocks = whole.net.blocks
    whole.net.blocks = torch.nn.ModuleList([blocks[0], blocks[2]])
    assert torch.equal(got, whole(x, t, Cond(label=1)).out)
    whole.net.blocks = blocks
    assert torch.equal(before, whole(x, t, Cond(label=1)).out)  # nothing stays behind
    assert apart(got, before) > 1e-2
    guided = guide.auto(whole, less, 2.0)(x, t, Cond(label=1)).out
    assert torch.allclose(guided, 2.0 * before - got, atol=1e-6)


def test_blocks_that_cannot_be_left_out_are_named():
    with pytest.raises(InputError, match=r"blocks\.0, blocks\.1"):
        guide.without(digits(), ["blocks.7"])
    with pytest.raises(InputError, match=r"got none"):
        guide.without(digits(), [])
    net = digits(UNetConfig(width=16, multipliers=(1, 2), blocks=1, heads=2, attention=(2,)))
    first_of_second_level = next(
        s for s in net.net.sites() if s.startswith("down.1.") and s.count(".") == 2 and s[-1].isdigit()
    )
    with pytest.raises(InputError, match=r"choose another block"):
        guide.without(net, [first_of_second_level])(torch.randn(1, 1, 8, 8), torch.tensor(0.5), Cond(label=1))
    assert math.isfinite(float(net(torch.randn(1, 1, 8, 8), torch.tensor(0.5)).out.sum()))
