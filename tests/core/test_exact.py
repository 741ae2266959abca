"""Closed-form denoisers against autograd of their log-density, brute force and sampling."""

import math

import pytest
import torch

from reverie.core.condition import Cond
from reverie.core.errors import InputError
from reverie.core.exact import Empirical, Gaussian, GaussianMixture
from reverie.core.paths import EDM, SubVP
from reverie.core.schedules import VE, VP, Cosine, Flow, Schedule

PATHS = [VP(), Cosine(), Flow(), VE(), EDM(), SubVP()]
paths = pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)


def mixture(labels: list[int] | None = None) -> GaussianMixture:
    root = torch.randn(3, 4, 4, dtype=torch.float64)
    covariances = root @ root.mT * 0.1 + 0.01 * torch.eye(4)
    return GaussianMixture(torch.tensor([0.2, 0.3, 0.5]).double(), torch.randn(3, 2, 2).double(), covariances, labels)


@paths
@pytest.mark.parametrize("cond", [None, Cond(label=[0, 1, 1, 0, 1, 0])])
def test_the_score_is_the_gradient_of_the_log_density(path: Schedule, cond: Cond | None) -> None:
    data = mixture([0, 1, 1])
    x = torch.randn(6, 2, 2, dtype=torch.float64, requires_grad=True)
    for t in (0.05, 0.4, 0.95):
        point = path.point(t)
        density = data.marginal_log_prob(x, point.alpha, point.sigma, cond)
        (gradient,) = torch.autograd.grad(density.sum(), x)
        estimate = data.denoiser(path)(x, t, cond)
        torch.testing.assert_close(estimate.score, gradient, rtol=1e-8, atol=1e-9)
        # Tweedie: α·E[x0 | x] = x + σ²·score
        torch.testing.assert_close(point.alpha * estimate.x0, x + point.sigma**2 * gradient, rtol=1e-9, atol=1e-9)


def test_the_density_is_normalised_and_that_of_torch() -> None:
    data = mixture()
    x = torch.randn(5, 2, 2, dtype=torch.float64)
    parts = torch.distributions.MultivariateNormal(data.means, data.covariances)
    whole = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.tensor([0.2, 0.3, 0.5]).double()), parts
    )
    torch.testing.assert_close(data.log_prob(x), whole.log_prob(x.flatten(1)))
    line = torch.linspace(-6, 6, 2001, dtype=torch.float64)[:, None]
    one = GaussianMixture(
        torch.ones(2).double(), torch.tensor([[-1.0], [2.0]]).double(), torch.tensor([[[0.1]], [[0.3]]]).double()
    )
    assert torch.trapezoid(one.marginal_log_prob(line, 0.6, 0.5).exp(), line[:, 0]).item() == pytest.approx(
        1.0, abs=1e-9
    )


def test_classes_condition_and_null_restores_the_whole() -> None:
    data = mixture([0, 1, 1])
    x = torch.randn(4, 2, 2, dtype=torch.float64)
    only = Gaussian(data.means[0].reshape(2, 2), data.covariances[0]).denoiser(VP())
    denoise = data.denoiser(VP())
    torch.testing.assert_close(denoise(x, 0.5, Cond(label=0)).x0, only(x, 0.5).x0)
    torch.testing.assert_close(denoise(x, 0.5, Cond(label=0).null()).x0, denoise(x, 0.5).x0)
    mixed = Cond(label=[0, 1, 0, 1]).drop(torch.tensor([True, True, False, True]))
    torch.testing.assert_close(denoise(x, 0.5, mixed).x0[2], denoise(x, 0.5).x0[2])
    assert denoise.conditions["label"].classes == 2


def test_both_ends_are_exact() -> None:
    data = mixture()
    mean = torch.einsum("k,kd->d", torch.tensor([0.2, 0.3, 0.5]).double(), data.means).reshape(1, 2, 2)
    x = torch.randn(3, 2, 2, dtype=torch.float64)
    for path in (Flow(), Cosine()):
        at_noise = data.denoiser(path)(x, 1.0)
        torch.testing.assert_close(at_noise.x0, mean.expand(3, 2, 2))
        torch.testing.assert_close(at_noise.eps, x)
        torch.testing.assert_close(data.denoiser(path)(x, path.clean()).x0, x)


def test_samples_have_the_moments() -> None:
    data = mixture()
    draws = data.sample(40_000, torch.Generator().manual_seed(0)).flatten(1)
    weights = torch.tensor([0.2, 0.3, 0.5]).double()
    mean = weights @ data.means
    second = torch.einsum("k,kij->ij", weights, data.covariances + data.means[:, :, None] * data.means[:, None])
    assert (draws.mean(0) - mean).abs().max() < 0.03
    assert (draws.T.cov() - (second - mean[:, None] * mean)).abs().max() < 0.06


@paths
def test_empirical_is_the_posterior_mean_of_its_data(path: Schedule) -> None:
    data = torch.randn(7, 1, 2, 2, dtype=torch.float64)
    x = torch.randn(3, 1, 2, 2, dtype=torch.float64)
    for t in (0.3, 0.9):
        point = path.point(t)
        noise = (x[:, None] - point.alpha * data) / point.sigma
        weight = torch.softmax(-0.5 * noise.flatten(2).square().sum(-1), dim=1)
        expected = torch.einsum("bk,k...->b...", weight, data)
        torch.testing.assert_close(Empirical(data, path)(x, t).x0, expected, rtol=1e-9, atol=1e-9)
    times = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    apart = torch.cat([Empirical(data, path)(x[i : i + 1], float(t)).x0 for i, t in enumerate(times)])
    torch.testing.assert_close(Empirical(data, path)(x, times).x0, apart, rtol=1e-9, atol=1e-9)


def test_empirical_is_a_mixture_of_points_and_knows_classes() -> None:
    data = torch.randn(5, 3, dtype=torch.float64)
    points = GaussianMixture(torch.ones(5).double(), data, torch.zeros(5, 3, 3).double(), [0, 0, 1, 1, 1])
    x = torch.randn(4, 3, dtype=torch.float64)
    denoise = Empirical(data, Flow(), [0, 0, 1, 1, 1])
    for cond in (None, Cond(label=1), Cond(label=[0, 1, 0, 1]).drop(torch.tensor([True, False, True, True]))):
        torch.testing.assert_close(denoise(x, 0.6, cond).x0, points.denoiser(Flow())(x, 0.6, cond).x0)
    near = data[2:3] + 1e-3
    torch.testing.assert_close(denoise(near, Flow().point(0.01)).x0, data[2:3])  # it copies


def test_empirical_at_clean_data_is_the_data() -> None:
    data = torch.randn(5, 3, dtype=torch.float64)
    got = Empirical(data, Flow())(data[1:2], Flow().clean()).x0
    torch.testing.assert_close(got, data[1:2])


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(InputError, match=r"need weights of shape \(2,\) and covariances of shape \(2, 3, 3\)"):
        GaussianMixture(torch.ones(2), torch.zeros(2, 3), torch.eye(3))
    assert math.isfinite(Gaussian(torch.zeros(2), torch.eye(2)).log_prob(torch.zeros(1, 2)).item())
