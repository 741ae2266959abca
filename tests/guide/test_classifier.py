"""Classifier guidance against Bayes' rule."""

import math

import pytest
import torch
from torch import Tensor

from reverie import guide
from reverie.core.condition import Cond
from reverie.core.errors import InputError
from reverie.core.exact import GaussianMixture
from reverie.core.schedules import VE, Cosine, Flow
from reverie.guide.classifier import ClassifierMean, gradient
from reverie.solve import DDIM, DDPM, Heun, grids, sample

from ..margin import apart
from .closed_form import classes, line, normal


def unlabelled(data: GaussianMixture) -> GaussianMixture:
    return GaussianMixture(data.log_weights.exp(), data.means, data.covariances)


@pytest.mark.parametrize("schedule", [Cosine(), Flow(), VE()], ids=["cosine", "flow", "ve"])
@pytest.mark.parametrize("path", [Cosine(), Flow()], ids=["classifier-cosine", "classifier-flow"])
def test_unconditional_model_and_exact_classifier_are_the_conditional_model(schedule, path):
    """At scale 1, to 1e-8 in double precision, at every noise level, whatever path the classifier lives on."""
    data = classes()
    free, conditional = unlabelled(data).denoiser(schedule), data.denoiser(schedule)
    guided = guide.classifier(free, data.classifier(path))
    cond = Cond(label=[0, 1, 0, 1, 1])
    for lam in (-3.0, -1.0, 0.0, 1.0, 3.0):
        point = schedule.at(lam)
        x = point.alpha * data.sample(5) + point.sigma * torch.randn(5, 2, dtype=torch.float64)
        wanted, got = conditional(x, point, cond), guided(x, point, cond)
        assert torch.allclose(got.score, wanted.score, rtol=1e-8, atol=1e-8)
        assert torch.allclose(got.eps, wanted.eps, rtol=1e-8, atol=1e-8)
        wrong_class = Cond(label=[1, 0, 1, 0, 0])
        for other in (free(x, point), guided(x, point, wrong_class)):
            assert (other.eps - wanted.eps).abs().max() > 1e-3


def test_the_gradient_against_finite_differences():
    data = classes()
    judge = data.classifier(Cosine())
    point = Cosine().at(0.4)
    x, label = torch.randn(4, 2, dtype=torch.float64), torch.tensor([0, 1, 1, 0])
    got = gradient(judge, x, point, label)
    for axis in range(2):
        step = torch.zeros(2, dtype=torch.float64)
        step[axis] = 1e-5
        up, down = (judge(x + s * step, point).gather(1, label[:, None])[:, 0] for s in (1, -1))
        assert torch.allclose(got[:, axis], (up - down) / 2e-5, atol=1e-8)


def test_score_and_noise_form_are_one_estimate():
    """ε̂ = ε − √(1−ᾱ)·w·∇log p(c | x_t) (algorithm 2)."""
    data = classes()
    model, judge = unlabelled(data).denoiser(Cosine()), data.classifier(Cosine())
    x, point = torch.randn(4, 2, dtype=torch.float64), Cosine().point(0.6)
    label = torch.tensor([0, 1, 1, 0])
    by_hand = model(x, point).eps - point.sigma * 2.5 * gradient(judge, x, point, label)
    assert torch.allclose(guide.classifier(model, judge, 2.5)(x, point, Cond(label=label)).eps, by_hand, rtol=1e-9)


class Ratio:
    """p(c | x_t) ∝ N(m, A²)/N(0, B²), noised: a classifier whose gradient is linear, so that runs have closed forms."""

    classes = 1

    def __init__(self, schedule, mean=1.5, a=0.5, b=1.0):
        self.schedule, self.mean, self.a, self.b = schedule, mean, a, b

    def __call__(self, x: Tensor, point) -> Tensor:
        va, vb = ((point.alpha * s) ** 2 + point.sigma**2 for s in (self.a, self.b))
        return 0.5 * (x**2 / vb - (x - point.alpha * self.mean) ** 2 / va)


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_the_guided_ode(scale):
    """Standard deviation A^s·B^(1−s), as of classifier-free guidance: the two are the same ODE."""
    _, std = line(guide.classifier(normal(0.0, 1.0), Ratio(VE(0.002, 80.0)), scale), 128)
    assert std == pytest.approx(0.5**scale, rel=0.02)


class Silent:
    """A tape of zeros: a linear run then moves as its mean does."""

    def draw(self, stream, number, shape, span=None):
        return torch.zeros(1, *shape, dtype=torch.float64)


def test_the_mean_form_of_ancestral_sampling_converges_to_the_conditional_model():
    """At first order: eight times the steps, an eighth of the error; without Σ it goes nowhere near."""
    start, model, conditional = Cosine().at(-4.0), normal(0.0, 1.0, Cosine()), normal(1.5, 0.5, Cosine())
    x = torch.zeros(1, 1, dtype=torch.float64)
    judge = Ratio(Cosine())

    def end(denoise, solver, steps):
        grid = grids.logsnr(start=2.0 * start.lam, end=8.0)
        return float(sample(denoise, solver=solver, x=x, steps=steps, grid=grid, tape=lambda seeds: Silent())[0, 0])

    exact = end(conditional, DDPM(), 600)
    errors = [abs(end(model, ClassifierMean(judge, Cond(label=0)), n) - exact) for n in (30, 240)]
    assert errors[1] < 0.2 * errors[0]
    assert errors[1] < 0.05

    class NoVariance(ClassifierMean):
        def correct(self, denoise, x_t, estimate, x, at, to, noise):
            return x + gradient(self.classifier, x_t, at, torch.zeros(1, dtype=torch.long))

    assert abs(end(model, NoVariance(judge, Cond(label=0)), 60) - exact) > 0.5


def test_per_sample_scales_labels_and_absent_labels():
    data = classes()
    model, judge = unlabelled(data).denoiser(Cosine()), data.classifier(Cosine())
    x, point = torch.randn(3, 2, dtype=torch.float64), Cosine().point(0.5)
    scales = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)
    together = guide.classifier(model, judge, scales)(x, point, Cond(label=[0, 1, 1])).out
    for i in range(3):
        alone = guide.classifier(model, judge, float(scales[i]))(
            x[i : i + 1], point, Cond(label=[[0], [1], [1]][i])
        ).out
        assert torch.allclose(together[i : i + 1], alone, rtol=1e-10)
    dropped = Cond(label=[0, 1, 1]).drop(torch.tensor([True, False, True]))
    got = guide.classifier(model, judge)(x, point, dropped).out
    assert torch.allclose(got[1], model(x, point).out[1])
    assert apart(got[0], model(x, point).out[0]) > 1e-2


def test_a_conditional_model_gives_its_null_branch_or_its_label():
    data = classes()
    model, judge = data.denoiser(Cosine()), data.classifier(Cosine())
    x, cond = torch.randn(3, 2, dtype=torch.float64), Cond(label=1)
    null = guide.classifier(model, judge)(x, 0.5, cond)
    assert torch.allclose(null.score, model(x, 0.5, cond).score, rtol=1e-8)
    twice = guide.classifier(model, judge, 1.0, conditional=True)(x, 0.5, cond)
    assert torch.allclose(twice.score, guide.cfg(model, 2.0)(x, 0.5, cond).score, rtol=1e-8)


def test_cost_and_memory():
    """One evaluation and no pass back through the denoiser; nothing that sampling returns carries a graph."""
    data = classes()
    guided = guide.classifier(unlabelled(data).denoiser(Cosine()), data.classifier(Cosine()))
    x, report = sample(guided, 3, Cond(label=0), DDIM(), 8, report=True)
    assert (report.evaluations, report.backwards) == (8, 0)
    assert not x.requires_grad


def test_guided_samples_are_of_the_class():
    data = classes()
    guided = guide.classifier(unlabelled(data).denoiser(Cosine()), data.classifier(Cosine()))
    x = sample(guided, 200, Cond(label=1), Heun(), 20)
    assert data.classifier(Cosine())(x.double(), Cosine().at(5.0)).argmax(1).double().mean() > 0.97
    free = sample(unlabelled(data).denoiser(Cosine()), 200, solver=Heun(), steps=20)
    share = data.classifier(Cosine())(free.double(), Cosine().at(5.0)).argmax(1).double().mean()
    assert 0.35 < share < 0.65


def test_mistakes_are_named():
    data = classes()
    model, judge = unlabelled(data).denoiser(Cosine()), data.classifier(Cosine())
    x = torch.zeros(1, 2, dtype=torch.float64)
    with torch.no_grad(), pytest.raises(InputError, match=r"no_grad"):
        guide.classifier(model, judge)(x, 0.5, Cond(label=0))
    with pytest.raises(InputError, match=r"needs a label"):
        guide.classifier(model, judge)(x, 0.5)
    with pytest.raises(InputError, match=r"out of range"):
        sample(guide.classifier(model, judge), 1, Cond(label=2))
    three = GaussianMixture(torch.ones(3), torch.zeros(3, 2), torch.eye(2).expand(3, 2, 2), labels=[0, 1, 2])
    with pytest.raises(InputError, match=r"knows 2 classes, the model 3"):
        guide.classifier(three.denoiser(Cosine()), judge)
    with pytest.raises(InputError, match=r"takes no label"):
        guide.classifier(model, judge, conditional=True)
    with pytest.raises(InputError, match=r"without labels"):
        unlabelled(data).classifier(Cosine())
    with pytest.raises(InputError, match=r"needs a label"):
        ClassifierMean(judge, Cond())
    assert math.isclose(guide.classifier(model, judge, 4.0).guidance, 4.0)
