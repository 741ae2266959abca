"""The variational auto-encoder: a linear one reaches the likelihood of probabilistic principal components, and a run is a citizen."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import reverie as rv
from reverie.core.batch import Batch, DataSpec
from reverie.core.condition import Cond
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.task import Moment
from reverie.families.token_config import VAEConfig
from reverie.families.vae import VAE, Bounding
from reverie.learn import TrainConfig
from reverie.recipes.recipe import DataConfig, Recipe

from .runs import resumes

D, Q, N = 6, 2, 400


class Linear(nn.Module):
    """Both directions linear, the posterior's variance the same for all x."""

    def __init__(self) -> None:
        super().__init__()
        self.towards, self.back = nn.Linear(D, Q), nn.Linear(Q, D)
        self.spread = nn.Parameter(torch.zeros(Q))
        self.log_variance = nn.Parameter(torch.zeros(()))

    def encode(self, x, label):
        return self.towards(x), self.spread.expand(len(x), -1)

    def decode(self, z, label):
        return self.back(z)


@pytest.fixture(scope="module")
def gaussian() -> torch.Tensor:
    torch.manual_seed(1)
    axes = torch.tensor([[1.5, 0.0], [0.0, 1.0], [0.7, -0.4], [0.0, 0.5], [1.0, 0.6], [-0.3, 0.9]], dtype=torch.float64)
    x = torch.randn(N, Q, dtype=torch.float64) @ axes.T + 0.4 * torch.randn(N, D, dtype=torch.float64)
    return x + torch.arange(D) / D


def ppca(x: torch.Tensor) -> float:
    """The log-likelihood of the best model N(m, W·Wᵀ + σ²·1) with Q columns, in nats a sample (Tipping & Bishop 1999, section 3.2)."""
    values = torch.linalg.eigvalsh(x.T.cov(correction=0)).flip(0)
    noise = values[Q:].mean()
    return -0.5 * (D * math.log(2 * math.pi) + values[:Q].log().sum() + (D - Q) * noise.log() + D).item()


def trained(x: torch.Tensor, beta: float) -> VAE:
    torch.manual_seed(0)
    model = VAE(Linear().double(), (D,), Q, {})
    task = Bounding(model, [], beta)  # pyright: ignore[reportArgumentType]
    optimizer = torch.optim.Adam(model.net.parameters(), 0.03)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1500)
    for step in range(1500):
        optimizer.zero_grad()
        parts = task.loss("vae", Batch(x), Draws(0, step * N, N), Moment(step, 0, 1))
        sum(part.mean() for part in parts.values()).backward()
        optimizer.step()
        decay.step()
    return model


def bound(model: VAE, x: torch.Tensor) -> float:
    """The mean over many draws of z."""
    return sum(model.log_prob_bound(x, seed=seed).mean().item() for seed in range(100)) / 100


def test_a_linear_one_reaches_the_likelihood_of_probabilistic_principal_components(gaussian):
    best = ppca(gaussian)
    values, _ = torch.linalg.eigh(gaussian.T.cov(correction=0))
    exact = torch.distributions.MultivariateNormal(gaussian.mean(0), gaussian.T.cov(correction=0))
    assert best < exact.log_prob(gaussian).mean()  # a full covariance says more
    model = trained(gaussian, 1.0)
    assert bound(model, gaussian) == pytest.approx(best, abs=0.02)
    assert model.net.log_variance.exp().item() == pytest.approx(values[: D - Q].mean().item(), rel=0.05)
    assert bound(trained(gaussian, 4.0), gaussian) < best - 0.1  # the wrong weight of the divergence


def test_the_terms_are_those_of_torch(gaussian):
    model = VAE(Linear().double(), (D,), Q, {})
    noise = torch.randn(N, Q, dtype=torch.float64)
    likely, divergent = model.terms(gaussian, None, noise)
    mean, log_variance = model.net.encode(gaussian, None)
    normal = torch.distributions.Normal
    posterior = normal(mean, (0.5 * log_variance).exp())
    restored = model.net.decode(mean + (0.5 * log_variance).exp() * noise, None)
    torch.testing.assert_close(likely, normal(restored, 1.0).log_prob(gaussian).sum(1))
    torch.testing.assert_close(divergent, torch.distributions.kl_divergence(posterior, normal(0.0, 1.0)).sum(1))


RECIPE = Recipe(
    name="vae",
    data=DataConfig(name="digits8"),
    task=VAEConfig(dims=8, width=8),
    train=TrainConfig(
        images=4096, batch=64, lr=3e-3, warmup=64, save_every=2048, validate_every=2048, sample_every=4096
    ),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return rv.recipes.train(RECIPE, tmp_path_factory.mktemp("runs") / "vae")[0]


def test_a_run_draws_by_label_and_bounds_the_likelihood(run):
    model = rv.load(run.folder)
    few = rv.sample(model, cond=Cond(label=[3, 4]), seed=5)
    assert few.shape == (2, 1, 8, 8) and few.abs().max() <= 1.0
    torch.testing.assert_close(rv.sample(model, 1, Cond(label=3), seed=5), few[:1], atol=1e-5, rtol=0)
    assert model.log_prob is None
    held_out = rv.data.load("digits8", split="test").batch(range(100))
    right = model.log_prob_bound(held_out.x, held_out.cond).mean()
    wrong = model.log_prob_bound(held_out.x, Cond(label=(held_out.label + 1) % 10)).mean()
    blind = RECIPE.task.build(run.spec, 0).log_prob_bound(held_out.x, held_out.cond).mean()
    assert right > wrong > blind
    measures = [entry["validation"] for entry in run.log if "validation" in entry]
    assert measures[-1]["bits_at_most"] < measures[0]["bits_at_most"]
    assert measures[-1]["divergence"] > 3.0  # nats: the code is used
    several = rv.sample(model, 50, Cond(label=3))
    assert several.std(0).mean() > 0.1
    with pytest.raises(InputError, match="cannot draw without a label"):
        rv.sample(model, 2)
    with pytest.raises(InputError, match="out of range"):
        rv.sample(model, 1, Cond(label=11))


def test_without_labels_it_draws_without(tmp_path):
    recipe = replace(RECIPE, data=DataConfig(name="digits8", labels=False), train=replace(RECIPE.train, images=64))
    model = rv.load(rv.recipes.train(recipe, tmp_path / "run")[0].folder)
    assert rv.sample(model, 3).shape == (3, 1, 8, 8)


@pytest.mark.parametrize("shape", [(3, 48, 32), (1, 28, 28), (1, 7, 5)])
def test_pictures_need_not_be_square(shape):
    model = VAEConfig(width=8).build(DataSpec(shape), 0)
    assert rv.sample(model, 2).shape == (2, *shape)


def test_it_resumes_bitwise(tmp_path, monkeypatch):
    short = replace(RECIPE, train=replace(RECIPE.train, images=512, save_every=256, validate_every=512))
    assert resumes(short, tmp_path, monkeypatch)
