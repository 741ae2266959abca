"""Classifier-free guidance and its variants against closed forms."""

import itertools
import math

import pytest
import torch

from reverie import guide
from reverie.core.condition import Cond, Label
from reverie.core.errors import InputError
from reverie.core.exact import Gaussian
from reverie.core.schedules import VE, Cosine, Flow
from reverie.solve import DDIM, Heun, grids, sample

from .closed_form import Switch, classes, line, normal

A, B, M, S = 0.5, 1.0, 1.5, 80.0


def bed(schedule=None):
    """Conditional N(m, A²), unconditional N(0, B²)."""
    return Switch(normal(M, A, schedule), normal(0.0, B, schedule))


def guided_mean(s: float) -> float:
    """The integral of the linear ODE's inhomogeneity, by Simpson's rule on a fine logarithmic grid."""
    import numpy as np
    from scipy.integrate import simpson

    sigma = np.concatenate([[0.0], np.geomspace(1e-5, S, 40001)])
    factor = lambda v: (A**2 + v**2) ** (-s / 2) * (B**2 + v**2) ** (-(1 - s) / 2)  # noqa: E731
    return float(simpson(factor(sigma) * s * M * sigma / (A**2 + sigma**2), x=sigma) / factor(0.0))


@pytest.mark.parametrize("scale", [1.0, 2.0, 4.0])
def test_the_guided_ode_and_not_the_tilted_density(scale):
    """Standard deviation A^s·B^(1−s) and the mean of the ODE; the density ∝ p·p(c|x)^s has another standard deviation by over 30 %."""
    mean, std = line(guide.cfg(bed(), scale), 128)
    assert std == pytest.approx(A**scale * B ** (1.0 - scale), rel=0.02)
    assert mean == pytest.approx(guided_mean(scale), rel=0.01)
    tilted = (scale / A**2 + (1.0 - scale) / B**2) ** -0.5
    if scale > 1.0:
        assert abs(std / tilted - 1.0) > 0.3
        wrong_convention = A ** (scale + 1.0) * B**-scale
        assert abs(std / wrong_convention - 1.0) > 0.3


def test_an_interval_acts_where_it_says_and_skips_the_null_branch_elsewhere():
    low, high, s = 0.2, 1.5, 3.0
    interval = (-2.0 * math.log(high), -2.0 * math.log(low))
    guided = guide.cfg(bed(), s, interval)
    _, std = line(guided, 128)
    gain = ((A**2 + low**2) / (A**2 + high**2)) / ((B**2 + low**2) / (B**2 + high**2))
    assert std == pytest.approx((A**2 * gain ** (s - 1.0)) ** 0.5, rel=0.02)
    _, always = line(guide.cfg(bed(), s), 128)
    assert abs(always / std - 1.0) > 0.2

    run = {"cond": Cond(label=0), "solver": DDIM(), "steps": 32, "grid": grids.karras(), "report": True}
    model = classes().denoiser(VE(0.002, 80.0))
    cost = {
        name: sample(d, 3, **run)[1].evaluations
        for name, d in {"cfg": guide.cfg(model, s), "interval": guide.cfg(model, s, interval)}.items()
    }
    points = grids.karras()(model.schedule, 32)[:-1]
    inside = sum(interval[0] <= 2.0 * p.lam <= interval[1] for p in points)
    assert cost["cfg"] == 64
    assert cost["interval"] == 32 + inside < 50


def test_the_interval_agrees_for_a_time_a_sample():
    guided = guide.cfg(bed(), 3.0, (-1.0, 1.0))
    lams = torch.tensor([-2.0, -0.4, 0.3, 2.0], dtype=torch.float64)
    t = VE(0.002, 80.0).t_of_lam(lams)
    x = torch.randn(4, 1, dtype=torch.float64)
    together = guided(x, t, Cond(label=0)).x0
    for i in range(4):
        assert torch.allclose(together[i : i + 1], guided(x[i : i + 1], float(t[i]), Cond(label=0)).x0, rtol=1e-10)


def test_a_scale_a_sample_and_a_scale_by_logsnr():
    x = torch.randn(3, 1, dtype=torch.float64)
    scales = torch.tensor([0.0, 1.0, 2.5], dtype=torch.float64)
    each = guide.cfg(bed(), scales)(x, 0.4, Cond(label=0)).x0
    for i, scale in enumerate(scales.tolist()):
        alone = guide.cfg(bed(), scale)(x[i : i + 1], 0.4, Cond(label=0)).x0
        assert torch.allclose(each[i : i + 1], alone, rtol=1e-12)

    ramp = guide.cfg(bed(), lambda logsnr: 1.0 + 2.0 / (1.0 + math.exp(logsnr)))
    assert 2.0 < ramp.guidance <= 3.0
    logsnr = 2.0 * VE(0.002, 80.0).lam(0.4)
    fixed = guide.cfg(bed(), 1.0 + 2.0 / (1.0 + math.exp(logsnr)))
    assert torch.equal(ramp(x, 0.4, Cond(label=0)).out, fixed(x, 0.4, Cond(label=0)).out)


def test_a_scale_a_sample_inside_another_guide():
    """The outer guide's branches double the batch; the inner scale stays with its samples."""
    model = classes().denoiser(Cosine())
    x, scales = torch.randn(3, 2, dtype=torch.float64), torch.tensor([0.5, 1.5, 2.5], dtype=torch.float64)
    together = guide.cfg(guide.auto(model, model, scales), 2.0)(x, 0.5, Cond(label=[0, 1, 0])).out
    for i in range(3):
        alone = guide.cfg(guide.auto(model, model, float(scales[i])), 2.0)(x[i : i + 1], 0.5, Cond(label=[0, 1, 0][i]))
        assert torch.allclose(together[i : i + 1], alone.out, rtol=1e-10)


def test_scale_one_and_zero_cost_one_evaluation():
    x = torch.randn(3, 1, dtype=torch.float64)
    assert torch.equal(guide.cfg(bed(), 1.0)(x, 0.4, Cond(label=0)).out, bed()(x, 0.4, Cond(label=0)).out)
    assert torch.equal(guide.cfg(bed(), 0.0)(x, 0.4, Cond(label=0)).out, bed()(x, 0.4).out)
    for scale, cost in ((0.0, 5), (1.0, 5), (2.0, 10)):
        guided = guide.cfg(classes().denoiser(Cosine()), scale)
        assert sample(guided, 2, Cond(label=0), DDIM(), 5, report=True)[1].evaluations == cost


def test_more_guidance_is_more_certain_and_less_varied():
    """Mean log p(class | x0) rises strictly over the scales, the spread within a mode falls."""
    data = classes()
    model = data.denoiser(Cosine())
    log_p, spread = [], []
    for scale in (0.0, 0.5, 1.0, 1.5, 2.0):
        x = sample(guide.cfg(model, scale), 1500, Cond(label=0), Heun(), 24, seed=1).double()
        joint = data._components(x, 1.0, 0.0, None)[1]
        log_p.append(float((joint[:, :2].logsumexp(1) - joint.logsumexp(1)).mean()))
        near = x[x[:, 0] > 0.0]  # the modes of class 0 are 4 apart
        spread.append(float(near.std(0).mean()))
    assert all(a < b for a, b in itertools.pairwise(log_p))
    assert spread[2] == pytest.approx(0.6, abs=0.03)
    assert spread[4] < 0.9 * spread[2]


def test_a_negative_condition_takes_the_place_of_the_null():
    model = classes().denoiser(Cosine())
    x = torch.randn(5, 2, dtype=torch.float64)
    got = guide.cfg(model, 2.5, negative=Cond(label=1))(x, 0.5, Cond(label=0)).score
    zero, one = (model(x, 0.5, Cond(label=i)).score for i in (0, 1))
    assert torch.allclose(got, one + 2.5 * (zero - one), rtol=1e-10)


def test_several_conditions():
    model = classes().denoiser(Cosine())
    x = torch.randn(5, 2, dtype=torch.float64)
    parts = [(Cond(label=0), 1.5), (Cond(label=1), -0.5)]
    got = guide.compose(model, parts)(x, 0.5).score
    null, zero, one = model(x, 0.5).score, *(model(x, 0.5, Cond(label=i)).score for i in (0, 1))
    assert torch.allclose(got, null + 1.5 * (zero - null) - 0.5 * (one - null), rtol=1e-10)
    single = guide.compose(model, parts[:1])(x, 0.5).out
    assert torch.allclose(single, guide.cfg(model, 1.5)(x, 0.5, Cond(label=0)).out, rtol=1e-10)


def test_two_conditions_that_are_independent_are_both_met():
    """p(x) = ∏ p(xᵢ), one condition on each coordinate: the composition at scale 1 is the exact joint conditional."""
    wide, narrow = torch.diag(torch.tensor([1.0, 1.0]).double()), torch.diag(torch.tensor([0.01, 1.0]).double())
    free = Gaussian(torch.zeros(2).double(), wide).denoiser(Cosine())
    first = Gaussian(torch.tensor([1.0, 0.0]).double(), narrow).denoiser(Cosine())
    second = Gaussian(torch.tensor([0.0, -1.0]).double(), narrow.flip(0, 1)).denoiser(Cosine())
    both = Gaussian(torch.tensor([1.0, -1.0]).double(), 0.01 * torch.eye(2).double()).denoiser(Cosine())

    class Choice(Switch):
        def __call__(self, x, t, cond=None):
            if cond is None:
                return free(x, t)
            entry = cond["label"]
            outs = torch.stack([free(x, t).out, first(x, t).out, second(x, t).out])
            which = torch.where(entry.present, entry.value + 1, 0)
            return free(x, t).replace(outs[which, torch.arange(len(x))])

    model = Choice(first, free)
    model.conditions = {"label": Label(2)}
    x = torch.randn(6, 2, dtype=torch.float64)
    got = guide.compose(model, [(Cond(label=0), 1.0), (Cond(label=1), 1.0)])(x, 0.5)
    assert torch.allclose(got.x0, both(x, 0.5).x0, atol=1e-10)


@pytest.mark.parametrize("space", ["x0", "eps", "v"])
def test_rescaling_restores_the_standard_deviation_in_the_named_space(space):
    model = Switch(normal(M, A, Flow(), (1, 4, 4)), normal(0.0, B, Flow(), (1, 4, 4)))
    x = torch.randn(3, 1, 4, 4, dtype=torch.float64)
    read = lambda estimate: getattr(estimate, space).flatten(1).std(1, correction=0)  # noqa: E731
    wanted = read(model(x, 0.6, Cond(label=0)))
    plain = read(guide.cfg(model, 4.0)(x, 0.6, Cond(label=0)))
    full = read(guide.rescaled(model, 4.0, 1.0, space)(x, 0.6, Cond(label=0)))
    half = read(guide.rescaled(model, 4.0, 0.5, space)(x, 0.6, Cond(label=0)))
    assert torch.allclose(full, wanted, rtol=1e-9)
    assert torch.allclose(half, (wanted + plain) / 2, rtol=1e-9)
    assert ((plain / wanted - 1).abs() > 0.05).all()
    none = guide.rescaled(model, 4.0, 0.0, space)(x, 0.6, Cond(label=0)).out
    assert torch.equal(none, guide.cfg(model, 4.0)(x, 0.6, Cond(label=0)).out)


def test_projected_guidance_is_at_right_angles_and_no_longer_than_its_radius():
    model = Switch(normal(M, A, Flow(), (1, 4, 4)), normal(0.0, B, Flow(), (1, 4, 4)))
    x = torch.randn(3, 1, 4, 4, dtype=torch.float64)
    cond = model(x, 0.6, Cond(label=0)).x0.flatten(1)
    null = model(x, 0.6).x0.flatten(1)
    step = (guide.apg(model, 3.0)(x, 0.6, Cond(label=0)).x0.flatten(1) - cond) / 2.0
    assert ((step * cond).sum(1).abs() < 1e-9 * cond.square().sum(1)).all()
    along = ((cond - null) * cond).sum(1, keepdim=True) / cond.square().sum(1, keepdim=True) * cond
    assert torch.allclose(step, cond - null - along, atol=1e-9)
    everything = guide.apg(model, 3.0, parallel=1.0)(x, 0.6, Cond(label=0)).x0
    assert torch.allclose(everything, guide.cfg(model, 3.0)(x, 0.6, Cond(label=0)).x0, atol=1e-9)
    short = (guide.apg(model, 3.0, parallel=1.0, radius=0.25)(x, 0.6, Cond(label=0)).x0.flatten(1) - cond) / 2.0
    assert torch.allclose(short.norm(dim=1), torch.full((3,), 0.25).double(), atol=1e-9)


def test_dynamic_thresholding_brings_x0_into_range():
    model = normal(0.0, 3.0, Flow(), (1, 8, 8))
    x = 3.0 * torch.randn(4, 1, 8, 8, dtype=torch.float64)
    x[0] *= 0.01
    before = model(x, 0.2).x0
    after = guide.threshold(model, 0.9)(x, 0.2).x0
    assert after.abs().max() <= 1.0 + 1e-9
    assert torch.allclose(after[0], before[0], atol=1e-12)  # in range already
    s = before[1:].abs().flatten(1).sort(1).values[:, math.ceil(0.9 * 64) - 1].reshape(-1, 1, 1, 1)
    assert torch.allclose(after[1:], before[1:].clamp(-s, s) / s, atol=1e-9)
    static = before.clamp(-1.0, 1.0)
    assert (after[1:] - static[1:]).abs().max() > 0.1
    assert torch.allclose(guide.threshold(model, 0.0)(x, 0.2).x0, static, atol=1e-12)


def pictures():
    """Pictures of 4x4 pixels with a mean that is not flat."""
    mean = torch.linspace(-1.0, 1.0, 16, dtype=torch.float64).reshape(1, 4, 4)
    eye = torch.eye(16, dtype=torch.float64)
    return Switch(Gaussian(mean, 0.25 * eye).denoiser(Flow()), Gaussian(mean.flip(2), eye).denoiser(Flow()))


VARIANTS = {
    "cfg": lambda d: guide.cfg(d, 3.0),
    "interval": lambda d: guide.cfg(d, 3.0, (-2.0, 2.0)),
    "negative": lambda d: guide.cfg(d, 3.0, negative=Cond(label=0)),
    "rescaled": lambda d: guide.rescaled(d, 3.0),
    "apg": lambda d: guide.apg(d, 3.0, radius=0.5),
    "threshold": lambda d: guide.threshold(guide.cfg(d, 6.0)),
    "nested": lambda d: guide.threshold(guide.auto(guide.cfg(d, 2.0), d, 1.5)),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_no_sample_depends_on_its_batch(name):
    model = pictures()
    guided = VARIANTS[name](model)
    together = sample(guided, 4, Cond(label=0), DDIM(), 6, seed=3)
    alone = torch.cat([sample(guided, 1, Cond(label=0), DDIM(), 6, seed=[(3, i)]) for i in range(4)])
    assert torch.allclose(together, alone, atol=1e-5)
    loud = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    quiet = guided(loud, 0.5, Cond(label=0)).out[0]
    loud[1] *= 100.0
    assert torch.allclose(guided(loud, 0.5, Cond(label=0)).out[0], quiet, atol=1e-12)


@pytest.mark.parametrize("name", VARIANTS)
def test_guides_forward_what_they_guide(name):
    model = pictures()
    guided = VARIANTS[name](model)
    assert guided.shape == model.shape
    assert guided.schedule == model.schedule
    assert guided.conditions == model.conditions
    assert guided.guidance >= 3.0


def test_mistakes_are_named():
    model = bed()
    with pytest.raises(InputError, match=r"needs a condition"):
        guide.cfg(model, 2.0)(torch.zeros(1, 1).double(), 0.5)
    with pytest.raises(InputError, match=r"noise is low"):
        guide.cfg(model, 2.0, (3.0, -3.0))
    with pytest.raises(InputError, match=r"one condition for all samples: got 2"):
        guide.cfg(model, 2.0, negative=Cond(label=[0, 0]))
    with pytest.raises(InputError, match=r"out of range"):
        guide.cfg(model, 2.0, negative=Cond(label=5))
    with pytest.raises(InputError, match=r"in \[0, 1\]"):
        guide.rescaled(model, 2.0, 1.5)
    with pytest.raises(InputError, match=r"above 0"):
        guide.apg(model, 2.0, radius=0.0)
    with pytest.raises(InputError, match=r"quantile"):
        guide.threshold(model, -0.1)
    with pytest.raises(InputError, match=r"pass no cond"):
        guide.compose(model, [(Cond(label=0), 1.0)])(torch.zeros(1, 1).double(), 0.5, Cond(label=0))
    with pytest.raises(InputError, match=r"at least one"):
        guide.compose(model, [])
    with pytest.raises(InputError, match=r"unknown prediction kind"):
        guide.apg(model, 2.0, space="pixels")(torch.zeros(1, 1).double(), 0.5, Cond(label=0))
    with pytest.raises(InputError, match=r"shape"):
        guide.cfg(model, torch.ones(3))(torch.zeros(2, 1).double(), 0.5, Cond(label=0))
