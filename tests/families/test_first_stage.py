"""The first stage: VQ-GAN's adaptive weight by hand, a discriminator that warms up, a judge's features, f4 and f8, and runs."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import reverie as rv
from reverie.core.draws import Draws
from reverie.core.errors import InputError
from reverie.core.task import Moment
from reverie.families.token_config import AutoencoderConfig
from reverie.learn import TrainConfig
from reverie.recipes.recipe import DataConfig, Recipe
from reverie.spaces import VQ, ConvVAE
from reverie.spaces.tokenizing import MOST, SMALL, WARM, Discriminator, Tokenizing, balance

from .runs import resumes

DATA = DataConfig(name="digits8")
TRAIN = TrainConfig(images=512, batch=64, warmup=64, save_every=256, validate_every=512, sample_every=512)
EARLY, LATE = Moment(0, 0, 100), Moment(50, 50, 100)


@pytest.fixture(scope="module")
def digits():
    return rv.data.load("digits8")


def test_the_adaptive_weight_is_that_of_gradients_by_hand():
    """One linear layer x̂ = W·z: ∂/∂W of mean ‖x − x̂‖² is −2/(n·d)·Σ (x − x̂)·zᵀ, of −mean(a·x̂) it is −1/n·Σ a·zᵀ."""
    torch.manual_seed(0)
    layer, z, x, a = nn.Linear(3, 4, bias=False), torch.randn(5, 3), torch.randn(5, 4), torch.randn(4)
    near, real = (x - layer(z)).square().mean(), -(layer(z) @ a).mean()
    of_near = -2 / 20 * (x - layer(z)).T @ z
    of_real = -a[:, None] * z.mean(0)
    expected = of_near.norm() / (of_real.norm() + SMALL)
    weight = balance(near, real, layer.weight)
    torch.testing.assert_close(weight, expected.detach())
    assert not weight.requires_grad
    gradients = [torch.autograd.grad(loss, layer.weight, retain_graph=True)[0].norm() for loss in (near, weight * real)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=0)
    assert (of_near.norm() / of_real.norm() - 1.0).abs() > 0.1  # without the weight they differ
    assert balance(near, 0.0 * real, layer.weight) == pytest.approx(min(MOST, of_near.norm().item() / SMALL), rel=1e-4)
    assert balance(1e9 * near, real, layer.weight) == MOST


def adversarial(digits, weight: float = 0.8) -> Tokenizing:
    torch.manual_seed(0)
    space = VQ(1, 2, 4, codes=16, width=8).train()
    space.codebook.codes.normal_()
    return Tokenizing(space, digits, digits, discriminator=Discriminator(1, 8), adversarial=weight)


def test_the_space_listens_only_when_the_discriminator_has_learned(digits):
    task, batch, rng = adversarial(digits), digits.batch(range(8)), Draws(0, 0, 8)
    assert EARLY.fraction < WARM <= LATE.fraction
    early, late = (task.loss("space", batch, rng, now)["adversarial"] for now in (EARLY, LATE))
    assert early == 0.0 and late.abs() > 1e-3
    for now in (EARLY, LATE):  # it learns all the while
        hinge = task.loss("discriminator", batch, rng, now)["hinge"]
        restored = task.space.reconstruct(batch.x, torch.zeros(()))[0]
        critic = task.players["discriminator"].module
        by_hand = 0.5 * (F.relu(1 - critic(batch.x)).mean() + F.relu(1 + critic(restored)).mean())
        torch.testing.assert_close(hinge, by_hand)
        slopes = torch.autograd.grad(hinge, list(task.space.parameters()), allow_unused=True)
        assert all(slope is None for slope in slopes)


def test_in_its_turn_both_losses_move_the_last_layer_alike(digits):
    task, batch = adversarial(digits, 1.0), digits.batch(range(8))
    parts = task.loss("space", batch, Draws(0, 0, 8), LATE)
    near, real = (
        torch.autograd.grad(parts[key].mean(), task.space.last, retain_graph=True)[0].norm()
        for key in ("mse", "adversarial")
    )
    torch.testing.assert_close(near, real, rtol=2e-2, atol=0)
    half = adversarial(digits, 0.5).loss("space", batch, Draws(0, 0, 8), LATE)["adversarial"]
    torch.testing.assert_close(half, 0.5 * parts["adversarial"])


def test_the_codebook_is_counted_once_a_step(digits):
    task, batch = adversarial(digits), digits.batch(range(8))
    for player in ("space", "discriminator"):
        task.loss(player, batch, Draws(0, 0, 8), LATE)
    assert len(task.space.codebook._seen) == 1
    task.after_step(LATE)
    assert task.space.codebook.counts.sum() > 0


@pytest.mark.parametrize(("patch", "grid"), [(4, (8, 8)), (8, (4, 4))])
def test_a_kl_auto_encoder_divides_the_sides_by_its_f(patch, grid):
    config = AutoencoderConfig(kind="conv-vae", patch=patch, dims=4, kl=1e-6, width=8, adversarial=0.5)
    space = config.build(rv.data.load("emoji").spec, 0).space
    assert isinstance(space, ConvVAE) and space.code_shape((3, 32, 32)) == (4, *grid)
    x = rv.data.load("emoji").batch(range(64)).x
    space.normalise(x)
    assert space.encode(x).std().item() == pytest.approx(1.0, abs=0.02)


def test_without_divergence_codes_spread(digits):
    """The control of the KL term: at weight 0 the codes' scale grows, at a heavy one it is held near 1 in all."""
    spread = {}
    for kl in (0.0, 1.0):
        torch.manual_seed(0)
        space = ConvVAE(1, 2, 4, kl=kl, width=8)
        task = Tokenizing(space, digits, digits)
        optimizer = torch.optim.Adam(space.parameters(), 1e-2)
        for step in range(60):
            batch = digits.batch(torch.randint(len(digits), (64,)))
            optimizer.zero_grad()
            sum(p.mean() for p in task.loss("space", batch, Draws(0, 64 * step, 64), EARLY).values()).backward()
            optimizer.step()
        space.requires_grad_(False)
        spread[kl] = space.encode_raw(digits.batch(range(200)).x).std().item()
    assert spread[0.0] > 1.5 * spread[1.0] and spread[1.0] < 1.2


def test_any_features_serve_and_those_of_a_judge_come_by_name(tmp_path, digits):
    batch, now = digits.batch(range(8)), EARLY
    space = ConvVAE(1, 2, 4, width=8)
    plain = Tokenizing(space, digits, digits).loss("space", batch, Draws(0, 0, 8), now)
    seen = Tokenizing(space, digits, digits, perceptual=lambda x: [x.expand(-1, 2, -1, -1), x.repeat(1, 2, 1, 1)])
    assert set(seen.loss("space", batch, Draws(0, 0, 8), now)) - set(plain) == {"perceptual"}

    judge, _ = rv.recipes.train(
        Recipe(name="judge", data=DATA, task=rv.recipes.tasks.config("judge")(), train=TRAIN), tmp_path / "judge"
    )
    own = AutoencoderConfig(kind="conv-vae", patch=2, dims=4, width=8, perceptual=str(judge.folder))
    run, _ = rv.recipes.train(Recipe(name="ae", data=DATA, task=own, train=TRAIN), tmp_path / "ae")
    assert [entry["perceptual"] > 0 for entry in run.log if "loss" in entry]
    judge.folder.rename(tmp_path / "elsewhere")
    assert isinstance(rv.load(run.folder), ConvVAE)
    with pytest.raises(InputError, match="judges pictures of shape"):
        rv.recipes.train(
            Recipe(name="ae", data=DATA, task=replace(own, perceptual="mnist5k"), train=TRAIN), tmp_path / "b"
        )
    with pytest.raises(InputError, match="gives a ConvVAE, no judge"):
        wrong = replace(own, perceptual=str(run.folder))
        rv.recipes.train(Recipe(name="ae", data=DATA, task=wrong, train=TRAIN), tmp_path / "c")


@pytest.mark.parametrize("kind", ["conv-ae", "vq", "multiscale-vq"])
def test_it_resumes_bitwise_with_its_discriminator(tmp_path, monkeypatch, kind):
    own = AutoencoderConfig(kind=kind, patch=2, dims=4, codes=16, width=8, adversarial=0.8)
    assert resumes(Recipe(name="ae", data=DATA, task=own, train=TRAIN), tmp_path, monkeypatch)


def test_a_run_of_a_vq_vae_logs_its_usage(tmp_path):
    own = AutoencoderConfig(kind="vq", patch=2, dims=4, codes=16, width=8)
    run, _ = rv.recipes.train(Recipe(name="vq", data=DATA, task=own, train=TRAIN), tmp_path / "vq")
    measures = [entry["validation"] for entry in run.log if "validation" in entry][-1]
    assert 0 < measures["usage"] <= 1 and 1 <= measures["perplexity"] <= 16 and measures["mse"] > 0
    with pytest.raises(InputError, match="larger than the data"):
        large = replace(own, codes=2**17)
        rv.recipes.train(Recipe(name="vq", data=DATA, task=large, train=TRAIN), tmp_path / "large")


def test_two_processes_share_one_codebook(tmp_path):
    """What both have seen moves the codes, so that they are those of one process to rounding."""
    own = AutoencoderConfig(kind="vq", patch=2, dims=4, codes=16, width=8)
    few = replace(TRAIN, images=192, save_every=192)
    books = []
    for processes in (1, 2):
        recipe = Recipe(name="vq", data=DATA, task=own, train=replace(few, processes=processes))
        run, _ = rv.recipes.train(recipe, tmp_path / str(processes))
        books.append(run.checkpoint.tensors("model"))
    torch.testing.assert_close(books[0]["space.codebook.counts"], books[1]["space.codebook.counts"], atol=0.05, rtol=0)
    torch.testing.assert_close(books[0]["space.codebook.codes"], books[1]["space.codebook.codes"], atol=0.05, rtol=0)
