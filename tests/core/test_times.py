"""The densities of the training times against their definitions."""

import numpy as np
import pytest
import torch
from scipy import stats

from reverie.core.denoiser import NetDenoiser
from reverie.core.paths import EDM, Table
from reverie.core.schedules import VE, VP, Cosine, Flow
from reverie.core.times import LogitNormal, LogNormalSigma, LogSNR, Steps, Uniform

U = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000


def test_uniform():
    assert torch.equal(Uniform()(U), U)


def test_steps_of_a_chain_are_equally_likely():
    t = Steps(8)(U)
    assert torch.equal(t.unique(), torch.arange(1, 9, dtype=torch.float64) / 8)
    assert torch.bincount((8 * t).long())[1:].tolist() == [125] * 8 and (t.diff() >= 0).all()


def test_logit_normal():
    t = LogitNormal(0.4, 1.3)(U).numpy()
    np.testing.assert_allclose(np.log(t / (1 - t)), stats.norm(0.4, 1.3).ppf(U), rtol=1e-9)


@pytest.mark.parametrize("schedule", [Flow(), VP(), Cosine(), VE()])
def test_logsnr_is_uniform_and_increases_with_u(schedule):
    t = LogSNR(schedule)(U)
    lam = schedule.lam(t)
    low, high = schedule.lam_range()
    np.testing.assert_allclose(lam, high + (low - high) * U.numpy(), rtol=1e-6, atol=1e-8)
    assert (t.diff() > 0).all()


@pytest.mark.parametrize(
    "schedule", [EDM(1e-4, 1e3), VE(1e-4, 1e3), Flow(), VP(), Cosine()], ids=lambda s: type(s).__name__
)
def test_log_normal_sigma(schedule):
    """Quantiles of ln σ are those of the normal, by scipy; the density is that of the paper's ``exp(−1.2 + 1.2·n)``."""
    density = LogNormalSigma(schedule)
    t = density(U)
    levels = -schedule.lam(t).numpy()
    np.testing.assert_allclose(levels, stats.norm(-1.2, 1.2).ppf(U), rtol=1e-6, atol=1e-6)
    assert (t.diff() > 0).all()
    other = -schedule.lam(LogNormalSigma(schedule, 0.4, 0.3)(U)).numpy()
    np.testing.assert_allclose(other, stats.norm(0.4, 0.3).ppf(U), rtol=1e-6, atol=1e-6)


def test_log_normal_sigma_stays_on_the_path():
    t = LogNormalSigma(Table.linear(), 4.0, 5.0)(U)
    assert (t >= 0.0).all() and (t <= 1.0).all() and t[-1] == 1.0 and (t.diff() >= 0).all()
    inside = stats.norm(4.0, 5.0).ppf(U) < -Table.linear().lam(1.0)
    np.testing.assert_allclose(
        -Table.linear().lam(t[inside]), stats.norm(4.0, 5.0).ppf(U[inside]), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("std", [0.25, 0.5, 1.7])
def test_the_standard_deviation_of_the_data_is_one_setting(std):
    """A network that outputs 0 is EDM's D(x) = c_skip·x (table 1) for the data_std of its input scaling."""

    class Zero(torch.nn.Module):
        def forward(self, x, time, cond=None):
            self.seen = x
            return torch.zeros_like(x)

    net = Zero()
    denoise = NetDenoiser(net, EDM(), "edm", shape=(1, 2, 2), data_std=std)
    x, point = torch.randn(3, 1, 2, 2), EDM().at(-0.7)
    estimate = denoise(x, point)
    sigma = point.sigma
    torch.testing.assert_close(estimate.x0, x * std**2 / (sigma**2 + std**2))
    torch.testing.assert_close(net.seen, x / (sigma**2 + std**2) ** 0.5)
    p, _ = denoise.kind(point)
    assert p == pytest.approx((sigma**2 + std**2) ** 0.5 / (sigma * std) * (1 - std**2 / (sigma**2 + std**2)))
