"""Score distillation against closed forms: it seeks modes."""

import pytest
import torch

import reverie as rv
from reverie.core.count import Count
from reverie.core.denoiser import counted
from reverie.core.errors import InputError
from reverie.core.exact import Gaussian, GaussianMixture
from reverie.core.schedules import VP

from ..margin import apart
from .closed_form import Switch

A, B = 0.5 * 0.25 + 0.5, 0.5 * 1.0 + 0.5
"""Variances of x_t given the class, N(1.5, .25), and without it, N(0, 1), at ᾱ = ½."""


def two() -> tuple[GaussianMixture, float]:
    """The class, N(1.5, .25), and the t at which ᾱ = ½."""
    path = VP()
    low, high = 0.0, 1.0
    for _ in range(60):
        t = 0.5 * (low + high)
        low, high = (t, high) if path.point(t).alpha ** 2 > 0.5 else (low, t)
    narrow = Gaussian(torch.tensor([1.5], dtype=torch.float64), torch.tensor([[0.25]], dtype=torch.float64))
    return narrow, 0.5 * (low + high)


@pytest.mark.parametrize(("scale", "expected"), [(1.0, 1.5), (4.0, 2.8235)])
def test_score_distillation_goes_to_one_place(scale: float, expected: float) -> None:
    """At one t: the fixed point s·m·B/(s·B + (1 − s)·A), and images that start apart end at it: modes, not samples."""
    narrow, t = two()
    wide = Gaussian(torch.zeros(1, dtype=torch.float64), torch.eye(1, dtype=torch.float64))
    denoise = rv.guide.cfg(Switch(narrow.denoiser(VP()), wide.denoiser(VP())), scale)
    assert expected == pytest.approx(scale * 1.5 * B / (scale * B + (1 - scale) * A), abs=1e-3)
    x = torch.linspace(-2.0, 3.0, 16, dtype=torch.float64)[:, None].requires_grad_()
    cond = rv.Cond(label=0)
    for step in range(240):
        loss = rv.guide.sds(denoise, x, cond, step=step, times=(t, t), seed=5)
        assert loss.shape == (16,)
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        with torch.no_grad():
            x -= 2.0 / (1.0 + 0.05 * step) * gradient
    assert float(x.detach().mean()) == pytest.approx(expected, abs=0.1)
    assert float(x.detach().std()) < 0.25 < 0.5  # particles of a sampler would keep the class's standard deviation, .5


def test_score_distillation_has_no_network_jacobian_and_is_per_sample() -> None:
    denoise = two()[0].denoiser(VP())
    theta = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
    cost = Count()
    images = (theta * torch.ones(3, 1, dtype=torch.float64)).tanh()  # whatever makes the images
    loss = rv.guide.sds(counted(denoise, cost), images, seed=[4, 5, 6])
    (gradient,) = torch.autograd.grad(loss.sum(), theta)
    assert (cost.evaluations, cost.backwards) == (3, 0) and gradient.abs() > 1e-3
    alone = rv.guide.sds(denoise, images[1:2].detach().requires_grad_(), seed=[5])
    assert torch.allclose(alone, loss[1:2])
    assert apart(rv.guide.sds(denoise, images[1:2], seed=[5], step=1), alone) > 1e-2
    with pytest.raises(InputError, match="0 < low <= high <= 1"):
        rv.guide.sds(denoise, images, times=(0.5, 0.2))


def test_a_perfect_match_is_left_alone() -> None:
    """For point-mass data the error is exactly zero at the point and pulls back from anywhere else."""
    point = Gaussian(
        torch.tensor([0.3, -0.6], dtype=torch.float64), 1e-12 * torch.eye(2, dtype=torch.float64)
    ).denoiser(VP())
    x = torch.tensor([[0.3, -0.6], [1.0, 1.0]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(rv.guide.sds(point, x).sum(), x)
    assert gradient[0].abs().max() < 1e-6 < gradient[1].min()
