"""Unconditional generation by way of representations, against closed forms."""

import pytest
import torch
from torch.optim import Adam

from reverie import guide
from reverie.core.batch import Batch
from reverie.core.condition import Cond, Vector
from reverie.core.denoiser import Denoiser, NetDenoiser
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.estimate import Estimate
from reverie.core.predictions import KINDS
from reverie.core.schedules import Flow
from reverie.core.space import Identity
from reverie.core.task import Moment
from reverie.core.times import LogitNormal
from reverie.diffusion import Denoising
from reverie.measure import kernel_distance
from reverie.nets.vectors import VectorNet
from reverie.solve import sample

from ..margin import apart

D = 6


def representations(n: int, seed: int) -> torch.Tensor:
    """Three tight groups, standardised: far from a Gaussian."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.tensor([[2.0, -1, 0, 1, -1, 0], [-1.0, 2, 1, -2, 0, 1], [0.0, 0, -2, 1, 2, -1]])
    kind = torch.randint(3, (n,), generator=generator)
    return guide.standardise(centres[kind] + 0.15 * torch.randn(n, D, generator=generator))


class Painter(Denoiser):
    """Pictures of independent pixels N(mean given by the representation, 0.1²): exact, conditioned on a vector."""

    def __init__(self) -> None:
        self.schedule, self.shape, self.space = Flow(), (1, 2, 3), Identity()
        self.conditions = {"vector": Vector(D)}

    def __call__(self, x, t, cond=None) -> Estimate:
        point = self.point(t, x)
        mean = torch.zeros_like(x) if cond is None else cond["vector"].value.reshape(-1, 1, 2, 3).to(x)
        gain = point.alpha * 0.01 / (point.alpha**2 * 0.01 + point.sigma**2)
        return Estimate(x, mean + gain * (x - point.alpha * mean), KINDS["x0"](point), point)


@pytest.fixture(scope="module")
def learned() -> NetDenoiser:
    torch.manual_seed(0)
    denoise = NetDenoiser(VectorNet(D, 64, 2), Flow(), "flow", shape=(D,))
    task, optimizer = Denoising(denoise, LogitNormal()), Adam(denoise.net.parameters(), 2e-3)
    known = representations(4096, 0)
    for step in range(400):
        batch = Batch(known[(torch.arange(128) + 128 * step) % 4096])
        loss = task.loss("denoiser", batch, Draws(0, 128 * step, 128), Moment(0, 0, 1))["mse"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    denoise.net.requires_grad_(False)
    return denoise


def test_each_representation_is_standardised_over_its_own_features():
    x = guide.standardise(torch.randn(5, 7) * 3.0 + 2.0)
    assert torch.allclose(x.mean(1), torch.zeros(5), atol=1e-6)
    assert torch.allclose(x.std(1, correction=0), torch.ones(5), atol=1e-5)
    one = torch.randn(1, 7)
    assert torch.equal(guide.standardise(torch.cat([one, 100 * torch.randn(3, 7)]))[:1], guide.standardise(one))


def test_learned_representations_beat_a_gaussian_of_the_same_moments(learned):
    unseen = representations(600, 1)
    drawn = sample(learned, 600, steps=20)
    gaussian = torch.distributions.MultivariateNormal(unseen.mean(0), unseen.T.cov() + 1e-5 * torch.eye(D)).sample(
        (600,)
    )
    ours, theirs = (kernel_distance(x, unseen) for x in (guide.standardise(drawn), guide.standardise(gaussian)))
    assert ours < 0.3 * theirs


def test_the_chain_draws_pictures_of_its_representations(learned):
    x, r = guide.rcg(Painter(), learned, 200, seed=2, steps=12, vector_steps=20)
    assert x.shape == (200, 1, 2, 3)
    residual = x.flatten(1) - r
    assert float(residual.std()) == pytest.approx(0.1, rel=0.1)
    assert float(residual.mean()) == pytest.approx(0.0, abs=0.02)
    unseen = representations(200, 3) + 0.1 * torch.randn(200, D)
    without, _ = sample(Painter(), 200, steps=12), None
    assert kernel_distance(x.flatten(1), unseen) < 0.3 * kernel_distance(without.flatten(1), unseen)


def test_no_sample_depends_on_how_many_are_drawn(learned):
    many, _ = guide.rcg(Painter(), learned, 5, seed=2, steps=4, vector_steps=4)
    few, _ = guide.rcg(Painter(), learned, 2, seed=2, steps=4, vector_steps=4)
    assert torch.allclose(many[:2], few, atol=1e-5)
    assert apart(guide.rcg(Painter(), learned, 2, seed=3, steps=4, vector_steps=4)[0], few) > 1e-2


def test_models_that_do_not_fit_are_named(learned):
    with pytest.raises(InputError, match=r"conditioned on 'vector'"):
        guide.rcg(learned, learned)
    with pytest.raises(InputError, match=r"conditioned on 'clip'"):
        guide.rcg(Painter(), learned, name="clip")
    with pytest.raises(InputError, match=r"vectors \(batch, 6\)"):
        learned(torch.zeros(2, 5), 0.5)
    assert Cond(vector=torch.zeros(2, D))["vector"].present.all()
