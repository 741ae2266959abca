"""Objectives around a denoiser or a whole run, against closed forms: D-Flow is Matheron's rule, score distillation seeks modes."""

import pytest
import torch
from torch import Tensor

import reverie as rv
from reverie.core.count import Count
from reverie.core.denoiser import counted
from reverie.core.errors import InputError
from reverie.core.exact import Gaussian, GaussianMixture
from reverie.core.schedules import VP, Flow
from reverie.inverse.dflow import Checkpointed
from reverie.solve import Heun, grids, sample

from ..margin import apart

H = torch.tensor([[1.0, 0.5, -0.3, 0.2], [0.1, -1.2, 0.4, 0.7]], dtype=torch.float64)
Y = torch.tensor([1.0, -0.7], dtype=torch.float64)
ROOT = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
COVARIANCE = ROOT @ ROOT.T / 4 + 0.1 * torch.eye(4, dtype=torch.float64)


def squared(x: Tensor) -> Tensor:
    return (x @ H.T - Y).square().sum(1)


def matheron(x: Tensor, covariance: Tensor) -> Tensor:
    """A prior sample made one of the posterior: ``x + ΣHᵀ(HΣHᵀ)⁻¹(y − Hx)``."""
    return x + (Y - x @ H.T) @ (covariance @ H.T @ torch.linalg.inv(H @ covariance @ H.T)).T


def test_dflow_is_matherons_rule() -> None:
    denoise = Gaussian(torch.zeros(4, dtype=torch.float64), COVARIANCE).denoiser(Flow())
    source = torch.randn(3, 4, dtype=torch.float64)
    run = {"steps": 16, "solver": Heun("straight"), "grid": grids.time()}
    prior = sample(denoise, x=source, **run)
    controlled = rv.inverse.dflow(denoise, squared, 3, iterations=40, source=source, **run)
    assert controlled.loss.max() < 1e-12
    flow = sample(denoise, x=torch.eye(4, dtype=torch.float64), **run)  # the discrete flow is this symmetric matrix
    assert torch.allclose(controlled.images, matheron(prior, flow @ flow), atol=1e-7)
    assert apart(controlled.images, matheron(prior, COVARIANCE)) < 0.03
    euclidean = (
        prior + (Y - prior @ H.T) @ torch.linalg.pinv(H).T
    )  # the control: descent in the image, not in the source
    assert apart(euclidean, matheron(prior, COVARIANCE)) > 0.1


def test_dflow_is_per_sample_and_takes_a_loss_for_each() -> None:
    denoise = Gaussian(torch.zeros(4, dtype=torch.float64), COVARIANCE).denoiser(Flow())
    source = torch.randn(2, 4, dtype=torch.float64)
    losses = [squared, lambda x: 100.0 * (x[:, 0] - 1.0).square()]
    both = rv.inverse.dflow(denoise, losses, 2, steps=4, source=source)
    alone = rv.inverse.dflow(denoise, losses[1], 1, steps=4, source=source[1:])
    assert torch.equal(both.images[1:], alone.images) and (both.images[1, 0] - 1.0).abs() < 1e-6
    with pytest.raises(InputError, match="got 2 for 3 samples"):
        rv.inverse.dflow(denoise, losses, 3)
    with pytest.raises(InputError, match=r"dflow needs gradients.*no_grad"), torch.no_grad():
        rv.inverse.dflow(denoise, squared)


def test_checkpointing_keeps_one_evaluation() -> None:
    """The same gradient, the network's activations made again on the way back: memory does not grow with the steps."""
    net = torch.nn.Sequential(torch.nn.Linear(4, 512), torch.nn.Tanh(), torch.nn.Linear(512, 4)).double()
    denoise = Gaussian(torch.zeros(4, dtype=torch.float64), COVARIANCE).denoiser(Flow())

    class Deep(type(denoise)):
        def __call__(self, x, t, cond=None):
            estimate = super().__call__(x, t, cond)
            return estimate.replace(estimate.out + 0.1 * net(x))

    deep = Deep(denoise.data, denoise.schedule)
    kept, gradients = [], []
    for model in (deep, Checkpointed(deep)):
        x = torch.ones(1, 4, dtype=torch.float64, requires_grad=True)
        sizes: list[int] = []

        def pack(t: Tensor, sizes=sizes) -> Tensor:
            sizes.append(t.numel())
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            out = sample(model, x=x, steps=8, solver=Heun("straight"))
        kept.append(sum(sizes))
        gradients.append(torch.autograd.grad(squared(out).sum(), x)[0])
    assert torch.allclose(*gradients, rtol=1e-12) and kept[1] < 0.2 * kept[0], kept


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
    from .closed_form import Switch

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
