"""D-Flow against a closed form, Matheron's rule."""

import pytest
import torch
from torch import Tensor

import reverie as rv
from reverie.core.errors import InputError
from reverie.core.exact import Gaussian
from reverie.core.schedules import Flow
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
