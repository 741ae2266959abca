"""The densities of the training times against their definitions."""

import numpy as np
import pytest
import torch
from scipy import stats

from reverie.core.schedules import VE, VP, Cosine, Flow
from reverie.core.times import LogitNormal, LogSNR, Uniform

U = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000


def test_uniform():
    assert torch.equal(Uniform()(U), U)


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
