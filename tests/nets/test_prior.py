"""The Gaussian prior of a network: exact against the dense closed form, maximum likelihood when fitted, kept with the weights."""

from dataclasses import replace

import pytest
import torch

import reverie as rv
from reverie.core.condition import Cond
from reverie.core.denoiser import NetDenoiser
from reverie.core.errors import InputError
from reverie.core.exact import GaussianMixture
from reverie.core.schedules import VE, VP, Cosine, Flow
from reverie.data import load
from reverie.nets import DiTConfig, JiTConfig, UNetConfig, build
from reverie.nets.prior import Prior
from reverie.recipes import serialisation, training

SHAPE = (1, 4, 4)


def own(prior: Prior, k: int) -> torch.Tensor:
    """The axes of one class, a view (d, rank)."""
    return prior.axes[:, k * prior.rank : (k + 1) * prior.rank]


def made(classes: int = 3, rank: int = 5) -> Prior:
    """A prior with random Gaussians, in float64."""
    rng = torch.Generator().manual_seed(0)
    prior = Prior(classes, SHAPE, rank).double()
    prior.means.copy_(torch.randn(classes, 16, generator=rng))
    for k in range(classes):
        own(prior, k).copy_(torch.linalg.qr(torch.randn(16, rank, generator=rng).double())[0])
        prior.centres[k] = prior.means[k] @ own(prior, k)
    prior.values.copy_(0.5 + torch.rand(classes, rank, generator=rng))
    prior.rest.copy_(0.05 + 0.2 * torch.rand(classes, generator=rng))
    prior.log_weights.copy_(torch.tensor([0.5, 0.3, 0.2])[:classes].log())
    return prior


def dense(prior: Prior) -> GaussianMixture:
    eye = torch.eye(16, dtype=torch.float64)
    covariances = torch.stack(
        [
            u @ torch.diag(e) @ u.T + nu * (eye - u @ u.T)
            for u, e, nu in zip(prior.axes.chunk(len(prior.means), 1), prior.values, prior.rest, strict=True)
        ]
    )
    labels = range(len(prior.means))
    return GaussianMixture(prior.log_weights.exp(), prior.means.view(-1, *SHAPE), covariances, labels=list(labels))


@pytest.mark.parametrize("schedule", [Flow(), VP(), Cosine(), VE()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("cond", [None, Cond(label=[0, 1, 2, 1]), Cond(label=[0, 1, 2, 1]).null()])
def test_equals_the_dense_mixture(schedule, cond):
    prior, x = made(), torch.randn(4, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    exact = dense(prior).denoiser(schedule)
    for t in (0.05, 0.5, 0.95, torch.tensor([0.1, 0.4, 0.7, 0.9], dtype=torch.float64)):
        point = schedule.point(t).align(x) if isinstance(t, torch.Tensor) else schedule.point(t)
        torch.testing.assert_close(prior(x, point, cond).x0, exact(x, point, cond).x0, rtol=1e-9, atol=1e-9)


def test_a_wrong_rank_is_not_the_dense_mixture():
    prior, x = made(), torch.randn(4, *SHAPE, dtype=torch.float64)
    exact, point = dense(prior).denoiser(Flow()), Flow().point(0.5)
    prior.axes[:, -1] = 0.0
    assert (prior(x, point).x0 - exact(x, point).x0).abs().max() > 1e-2


def test_fit_is_maximum_likelihood():
    rng = torch.Generator().manual_seed(2)
    x, labels = torch.randn(600, *SHAPE, generator=rng) * torch.linspace(0.1, 2, 16).view(SHAPE), torch.arange(600) % 2
    x[labels == 1] += 3.0
    prior = Prior(2, SHAPE, 4)
    prior.fit(x, labels)

    def likelihood(p: Prior) -> float:
        values = torch.cat([p.values, p.rest[:, None].expand(-1, 12)], 1).double()
        basis = [torch.linalg.qr(torch.cat([u, torch.randn(16, 12)], 1).double())[0] for u in p.axes.chunk(2, 1)]
        total = 0.0
        for k, (v, u) in enumerate(zip(values, basis, strict=True)):
            y = (x[labels == k].flatten(1) - p.means[k]).double() @ u
            total += float(-0.5 * (y.square() / v + v.log()).sum())
        return total

    best = likelihood(prior)
    for name, factor in (("values", 1.2), ("values", 0.8), ("rest", 1.2), ("rest", 0.8), ("means", 1.05)):
        other = Prior(2, SHAPE, 4)
        other.load_state_dict(prior.state_dict())
        getattr(other, name).mul_(factor)
        assert likelihood(other) < best - 1.0, (name, factor)


def test_a_class_with_few_pictures_or_none_is_taken():
    x, labels = torch.randn(41, *SHAPE), torch.tensor([0] * 40 + [1])
    prior = Prior(3, SHAPE, 8)
    prior.fit(x, labels)
    out = prior(torch.randn(6, *SHAPE), Flow().point(0.6), Cond(label=[0, 0, 1, 1, 0, 1])).x0
    assert out.isfinite().all()
    assert prior(torch.randn(6, *SHAPE), Flow().point(0.6)).x0.isfinite().all()


@pytest.mark.parametrize(
    "config", [DiTConfig(width=32, depth=1, heads=2, image=1), UNetConfig(width=8, blocks=1, image=1)]
)
def test_an_untrained_network_is_the_closed_form_at_high_noise_and_nothing_near_the_data(config):
    some = load("mnist5k", split="train").batch(range(1000))
    images, labels = some.x, some.label
    some = load("mnist5k", split="test").batch(range(64))
    unseen, classes = some.x, some.label
    net = build(config, channels=1, size=28, classes=10)
    net.prior = Prior(10, (1, 28, 28), 32)
    net.prior.fit(images, labels)
    denoise = NetDenoiser(net, Flow(), shape=(1, 28, 28))
    assert "image" not in denoise.conditions
    assert classes is not None
    noise, cond = torch.randn(unseen.shape), Cond(label=classes)

    def error(d: NetDenoiser, t: float) -> float:
        point = Flow().point(t)
        with torch.no_grad():
            return float(
                (d(point.alpha * unseen + point.sigma * noise, point, cond).velocity - (noise - unseen)).square().mean()
            )

    plain = NetDenoiser(build(replace(config, image=0), channels=1, size=28, classes=10), Flow(), shape=(1, 28, 28))
    shuffled = NetDenoiser(net, Flow(), shape=(1, 28, 28))
    assert error(denoise, 0.7) < 0.2 * error(plain, 0.7)
    right = error(denoise, 0.7)
    cond = Cond(label=(classes + 1) % 10)
    assert error(shuffled, 0.7) > 1.3 * right
    near = Flow().point(1e-4)
    torch.testing.assert_close(denoise(unseen, near, cond).out, torch.zeros_like(unseen), atol=1e-5, rtol=0)


def test_a_run_keeps_its_prior(tmp_path):
    recipe = serialisation.load(serialisation.find("demo"))
    tiny = replace(
        recipe,
        name="tiny",
        task=replace(recipe.task, net=DiTConfig(width=16, depth=1, heads=2, patch=7), prior=8),
        train=replace(
            recipe.train, images=64, batch=16, processes=1, validate_every=64, sample_every=64, save_every=32
        ),
    )
    run, seen = training.train(tiny, tmp_path / "run")
    assert seen == 64
    loaded = rv.load(run.folder)
    fresh = run.recipe.task.build(run.spec, 0)
    assert loaded.prior.means.abs().sum() > 0 and fresh.prior.means.abs().sum() == 0
    x = rv.sample(loaded, n=2, cond=Cond(label=[1, 2]), steps=2, seed=0)
    assert x.isfinite().all()


def test_a_network_without_pictures_as_condition_cannot_have_one(tmp_path):
    recipe = serialisation.load(serialisation.find("demo"))
    wrong = replace(recipe, task=replace(recipe.task, net=JiTConfig(), prior=8))
    with pytest.raises(InputError, match="dit or unet"):
        training.train(wrong, tmp_path / "run")
