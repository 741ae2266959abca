"""Guides around a network that corrects a closed form: with nothing to correct, each must be itself around the exact mixture."""

import pytest
import torch
from torch import nn

from reverie import guide, inverse
from reverie.core.condition import Cond, Label
from reverie.core.denoiser import Denoiser, NetDenoiser
from reverie.core.exact import GaussianMixture
from reverie.core.schedules import Flow
from reverie.inverse import operators
from reverie.nets.prior import Prior
from reverie.solve import DDIM, Heun, sample

SHAPE = (1, 4, 4)
MASK = torch.zeros(4, 4)
MASK[:2] = 1
X = torch.randn(3, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
Y = torch.randn(3, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(5)) * MASK
KNOWN = operators.Inpaint(MASK)


def made(classes: int = 3) -> Prior:
    """Three axes a class, fitted to pixels that depend on each other, in float64."""
    rng = torch.Generator().manual_seed(0)
    mix = torch.randn(classes, 16, 16, generator=rng).double() * 0.2
    x = torch.randn(classes, 60, 16, generator=rng).double() @ mix + torch.randn(classes, 1, 16, generator=rng)
    prior = Prior(classes, SHAPE, 3).double()
    prior.fit(x.reshape(-1, *SHAPE), torch.arange(classes).repeat_interleave(60))
    return prior


def dense(prior: Prior) -> GaussianMixture:
    """The same Gaussians, with their covariances written out."""
    axes = prior.axes.unflatten(1, (-1, prior.rank)).movedim(1, 0)
    rest = prior.rest[:, None, None]
    covariances = rest * torch.eye(16).double() + axes @ torch.diag_embed(prior.values - prior.rest[:, None]) @ axes.mT
    return GaussianMixture(
        prior.log_weights.exp(), prior.means.view(-1, *SHAPE), covariances, labels=range(len(prior.means))
    )


class Silent(nn.Module):
    """A network that adds nothing to its prior."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.prior = made(classes)
        self.conditions = {"label": Label(3)} if classes > 1 else {}

    def forward(self, x, time, cond=None):
        assert cond["image"].value.shape == x.shape
        return torch.zeros_like(x)


GUIDES = {
    "itself": lambda d: d,
    "cfg": lambda d: guide.cfg(d, 3.0),
    "interval": lambda d: guide.cfg(d, 3.0, (-1.0, 4.0)),
    "negative": lambda d: guide.cfg(d, 3.0, negative=Cond(label=0)),
    "rescaled": lambda d: guide.rescaled(d, 3.0),
    "apg": lambda d: guide.apg(d, 3.0, radius=0.5),
    "threshold": lambda d: guide.threshold(guide.cfg(d, 6.0)),
    "auto": lambda d: guide.auto(d, guide.cfg(d, 0.5), 2.0),
    "classifier": lambda d: guide.classifier(d, dense(made()).classifier(Flow()), 2.0),
    "energy": lambda d: guide.energy(d, lambda x: x.square().sum((1, 2, 3)), 0.3),
    "pigdm": lambda d: inverse.pigdm(d, KNOWN, Y, 0.1),
    "nested": lambda d: inverse.pigdm(guide.cfg(d, 2.0), KNOWN, Y, 0.1),
    "windows": lambda d: guide.windows(d, (4, 4)),
}


@pytest.fixture
def pair(monkeypatch) -> tuple[Denoiser, Denoiser]:
    """A network with a prior, all of whose output is the prior's; and the mixture that the prior is."""
    monkeypatch.setattr(Prior, "share", staticmethod(lambda point: 1.0))
    return NetDenoiser(Silent().double(), Flow(), "flow", shape=SHAPE), dense(made()).denoiser(Flow())


@pytest.mark.parametrize("name", GUIDES)
def test_a_guide_is_the_guide_of_the_mixture(pair, name) -> None:
    cond = Cond(label=[0, 1, 2])
    ours, exact = (GUIDES[name](each) for each in pair)
    for t in (0.2, 0.5, 0.9, torch.tensor([0.3, 0.6, 0.8], dtype=torch.float64)):
        torch.testing.assert_close(ours(X, t, cond).x0, exact(X, t, cond).x0, rtol=1e-8, atol=1e-8)
    if name != "itself":
        assert (ours(X, 0.5, cond).x0 - pair[1](X, 0.5, cond).x0).abs().max() > 1e-3 or name == "windows"


def test_the_gradient_goes_through_the_prior(pair) -> None:
    """A prior cut from the graph would give the same estimate, and another gradient."""
    model, exact = pair
    cond, whole = Cond(label=[0, 1, 2]), model.prior.forward
    wanted = inverse.pigdm(exact, KNOWN, Y, 0.1)(X, 0.5, cond).x0
    model.prior.forward = lambda x, point, cond=None: whole(x.detach(), point, cond).replace(  # pyright: ignore
        whole(x.detach(), point, cond).out + 0.0 * x
    )
    torch.testing.assert_close(model(X, 0.5, cond).x0, exact(X, 0.5, cond).x0, rtol=1e-8, atol=1e-8)
    assert (inverse.pigdm(model, KNOWN, Y, 0.1)(X, 0.5, cond).x0 - wanted).abs().max() > 1e-2


def test_correctors_and_objectives(pair) -> None:
    cond, run = Cond(label=[0, 1, 2]), {"steps": 6, "seed": 2}
    for solver in (
        inverse.dps(KNOWN, Y, 0.3),
        inverse.RePaint(KNOWN, Y, 0.1),
        guide.FreeDoM(DDIM(1.0), lambda x: x.square().sum((1, 2, 3)), 0.05),
    ):
        ours, exact = (sample(each, 3, cond, solver, **run) for each in pair)
        torch.testing.assert_close(ours.detach(), exact.detach(), rtol=1e-6, atol=1e-6, check_dtype=False)
    ours, exact = (
        inverse.dflow(each, lambda x: (x * MASK - 0.3).square().sum((1, 2, 3)), 2, Cond(label=1), 3, 3, Heun()).images
        for each in pair
    )
    torch.testing.assert_close(ours, exact, rtol=1e-3, atol=1e-3, check_dtype=False)


def test_one_class_for_data_without_labels(monkeypatch) -> None:
    monkeypatch.setattr(Prior, "share", staticmethod(lambda point: 1.0))
    model = NetDenoiser(Silent(1).double(), Flow(), "flow", shape=SHAPE)
    exact = dense(made(1)).denoiser(Flow())
    for method in ("pigdm", "dps", "reddiff", "repaint"):
        ours, theirs = (inverse.restore(each, KNOWN, Y, method, noise=0.1, steps=6).images for each in (model, exact))
        torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=1e-5, atol=1e-5, check_dtype=False)
