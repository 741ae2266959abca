"""The diffusion auto-encoder: where gradients go, what the two codes carry, and attribute directions in closed form."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import reverie as rv
from reverie.align.diffae import (
    Attributes,
    AutoEncoder,
    SemanticDenoising,
    SemanticEncoder,
    decode,
    encode,
    prior,
    prior_task,
)
from reverie.core.condition import Cond
from reverie.core.denoiser import NetDenoiser
from reverie.core.errors import InputError
from reverie.core.schedules import VP, Flow
from reverie.core.times import Uniform
from reverie.learn import Batch, Draws, Moment

NOW = Moment(0, 0, 100)


def awake(net):
    for p in net.parameters():
        if not p.any() and p.ndim > 1:
            nn.init.normal_(p, std=0.1)
    return net


def model(dim=4):
    torch.manual_seed(0)
    net = awake(rv.nets.build(rv.nets.DiTConfig(patch=2, width=16, depth=2, heads=2, vector=dim), channels=1, size=8))
    encoder = awake(
        SemanticEncoder(
            rv.nets.EncoderConfig(width=8, multipliers=(1, 2), attention=(), heads=2), channels=1, size=8, classes=dim
        )
    )
    return NetDenoiser(AutoEncoder(net, encoder), Flow(), shape=(1, 8, 8))


def bars(start, count):
    """Pictures whose content is one number, the height of a bar, in different noise."""
    rng = Draws(3, start, count)
    height = (8 * rng.uniform("height")).long()
    rows = torch.arange(8)[None, None, :, None]
    x = torch.where(rows < height[:, None, None, None], 0.8, -0.8).expand(-1, 1, 8, 8)
    return (x + 0.1 * rng.normal("x", (1, 8, 8))).clamp(-1, 1), height


@pytest.fixture(scope="module")
def trained():
    denoise = model()
    task = SemanticDenoising(denoise, Uniform())
    optimizer = torch.optim.Adam(denoise.net.parameters(), 4e-3)
    for step in range(80):
        optimizer.zero_grad()
        x, _ = bars(48 * step, 48)
        task.loss("denoiser", Batch(x), Draws(0, 48 * step, 48), NOW)["mse"].mean().backward()
        optimizer.step()
    denoise.net.eval().requires_grad_(False)
    return denoise


def test_the_error_reaches_the_encoder_and_only_through_the_code():
    denoise = model()
    task = SemanticDenoising(denoise, Uniform())
    task.loss("denoiser", Batch(bars(0, 8)[0]), Draws(0, 0, 8), NOW)["mse"].mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in denoise.net.encoder.out.parameters())
    denoise.net.zero_grad(set_to_none=True)
    plain = rv.diffusion.Denoising(denoise, Uniform())
    plain.loss("denoiser", Batch(bars(0, 8)[0], Cond(vector=torch.zeros(8, 4))), Draws(0, 0, 8), NOW)[
        "mse"
    ].mean().backward()
    assert all(p.grad is None for p in denoise.net.encoder.parameters())


def test_validation_needs_no_condition_either():
    task = SemanticDenoising(model(), Uniform(), held_out=Batch(bars(0, 16)[0]))
    with torch.no_grad():
        assert task.validate()["loss"] > 0


def test_both_codes_give_the_picture_back_and_one_alone_does_not(trained):
    x, height = bars(100_000, 16)
    code = encode(trained, x, steps=20)
    back = decode(trained, code.semantic, code.stochastic, steps=20)
    other = decode(trained, code.semantic, steps=20, seed=1)
    wrong = decode(trained, code.semantic.roll(1, 0), code.stochastic, steps=20)
    errors = [(y - x).square().mean().item() for y in (back, other, wrong)]
    assert errors[0] < 0.1 * errors[1] and errors[0] < 0.1 * errors[2]
    read = (other > 0).float().mean((1, 3)).sum(1)
    truth = height.float()
    mine, shuffled = (read - truth).abs().mean(), (read - truth.roll(3)).abs().mean()
    assert mine < 0.6 * shuffled  # what the semantic code says is kept when the rest is drawn anew


def test_the_code_holds_what_a_random_encoder_does_not(trained):
    """Least squares of the bar's height on 4 numbers: trained, untrained, and 4 shuffled."""
    (x, y), (x_test, y_test) = bars(0, 400), bars(50_000, 400)

    def unexplained(encoder, order=None):
        a, b = (F.pad(encoder(v).double(), (0, 1), value=1.0) for v in (x, x_test))
        target = y.double() if order is None else y.double()[order]
        fit = torch.linalg.lstsq(a, target[:, None]).solution
        return ((b @ fit)[:, 0] - y_test).square().mean().item() / y_test.double().var().item()

    with torch.no_grad():
        assert unexplained(trained.net.encoder) < 0.2
        assert unexplained(trained.net.encoder, torch.randperm(400)) > 0.8


def test_a_direction_is_the_normal_of_the_classifier_and_moving_changes_its_score_as_computed():
    """Two Gaussians of one covariance: the optimal normal is Σ⁻¹(μ₁ − μ₀) (Fisher 1936)."""
    rng = torch.Generator().manual_seed(0)
    scale = torch.tensor([1.0, 2.0, 0.5])
    labels = torch.arange(6000) % 2
    codes = (torch.randn(6000, 3, generator=rng) + labels[:, None] * torch.tensor([1.0, 0.0, 0.5])) * scale
    found = Attributes(codes, labels[:, None])
    expected = F.normalize(torch.tensor([1.0, 0.0, 0.5]) * codes.std(0) / scale, dim=0)
    assert (found.directions[0] @ expected).item() > 0.99
    moved = found.move(codes[:5], 0, 0.3)
    gain = found.scores(moved) - found.scores(codes[:5])
    torch.testing.assert_close(gain, torch.full((5, 1), 0.3 * 3**0.5 * found.layer.weight[0].norm().item()))
    assert (found.scores(found.move(codes[:5], 0, -0.3)) < found.scores(codes[:5])).all()


def test_the_prior_draws_codes_like_those_it_saw():
    """Correlated Gaussian codes far from the origin: mean and covariance come back; untrained they do not."""
    torch.manual_seed(0)
    mix = torch.tensor([[1.0, 0.0], [0.8, 0.4]])
    codes = torch.randn(2000, 2) @ mix.T * 3.0 + torch.tensor([5.0, -2.0])
    denoise = prior(codes, width=64, depth=3)
    assert denoise.schedule == VP(8.0, 8.0)

    def distance():
        with torch.no_grad():
            drawn = rv.sample(denoise, n=1000, steps=20)
        return (drawn.mean(0) - codes.mean(0)).norm() / 3, (drawn.T.cov() - codes.T.cov()).norm() / codes.T.cov().norm()

    before = distance()
    task = prior_task(denoise)
    optimizer = torch.optim.Adam(denoise.net.parameters(), 1e-2)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, 250)
    for step in range(250):
        optimizer.zero_grad()
        batch = Batch(codes[torch.randint(2000, (128,))])
        task.loss("denoiser", batch, Draws(0, 128 * step, 128), NOW)["mse"].mean().backward()
        optimizer.step()
        decay.step()
    after = distance()
    assert after[0] < 0.2 and after[1] < 0.35 and before[1] > 2 * after[1]


def test_what_is_no_auto_encoder_is_said():
    plain = NetDenoiser(
        rv.nets.build(rv.nets.DiTConfig(patch=2, width=16, depth=1, heads=2), channels=1, size=8),
        Flow(),
        shape=(1, 8, 8),
    )
    with pytest.raises(InputError, match="takes nothing"):
        AutoEncoder(plain.net, nn.Identity())
    with pytest.raises(InputError, match="diffusion auto-encoder"):
        encode(plain, torch.zeros(1, 1, 8, 8))
