"""What StyleGANs are made of: modulation, normalisation by a style, path lengths, and what the critic is shown."""

import math

import pytest
import torch
from torch.nn import functional as F

from reverie.core.batch import Batch
from reverie.core.draws import Draws
from reverie.core.task import Moment
from reverie.data import ImageSet
from reverie.families.augment import CHANGES, MOVING, Augment, coloured, warped
from reverie.families.gan_config import StyleGAN2Config
from reverie.families.stylegan import Dense, adain
from reverie.families.stylegan2 import PathLength, lengths, modulated


def test_modulation_is_scale_convolve_demodulate():
    torch.manual_seed(0)
    x, weight, style = torch.randn(3, 4, 6, 6), torch.randn(5, 4, 3, 3), torch.randn(3, 4)
    each = weight[None] * style[:, None, :, None, None]
    normed = each / (each.square().sum((2, 3, 4), keepdim=True) + 1e-8).sqrt()
    own = torch.cat([F.conv2d(a[None], w, padding=1) for a, w in zip(x, normed, strict=True)])
    torch.testing.assert_close(modulated(x, weight, style), own, atol=1e-5, rtol=1e-5)
    plain = torch.cat([F.conv2d(a[None], w, padding=1) for a, w in zip(x, each, strict=True)])
    torch.testing.assert_close(modulated(x, weight, style, demodulate=False), plain, atol=1e-4, rtol=1e-5)
    assert not torch.allclose(own, plain, atol=0.1)
    loud = torch.randn(8, 16, 12, 12)
    y = modulated(loud, torch.randn(8, 16, 3, 3), 7.0 * torch.randn(8, 16))[:, :, 1:-1, 1:-1]
    assert y.var().item() == pytest.approx(1.0, rel=0.1)


def test_a_style_says_mean_and_spread():
    torch.manual_seed(0)
    scale, shift = torch.rand(3, 4) + 0.5, torch.randn(3, 4)
    y = adain(5.0 * torch.randn(3, 4, 8, 8) + 2.0, scale, shift)
    torch.testing.assert_close(y.mean((2, 3)), shift, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(y.std((2, 3), correction=0), scale, atol=1e-5, rtol=1e-5)


def test_an_equalised_layer_keeps_the_spread_and_learns_at_its_rate():
    torch.manual_seed(0)
    layer = Dense(256, 64, bias=1.0, rate=0.01)
    y = layer(torch.randn(200, 256))
    assert y.std().item() == pytest.approx(1.0, rel=0.1) and y.mean().item() == pytest.approx(1.0, abs=0.1)
    before = layer.bias.detach().clone()
    with torch.no_grad():
        layer.bias.add_(1.0)
        moved = layer(torch.zeros(1, 256)) - before * 0.01
    torch.testing.assert_close(moved, torch.full_like(moved, 0.01))


def test_path_lengths_of_a_linear_generator():
    torch.manual_seed(0)
    maps, noise = torch.randn(3, 4, 12), torch.randn(5, 3, 2, 2)  # 3 layers of styles of 4 numbers
    styles = torch.randn(5, 3, 4, requires_grad=True)
    picture = torch.einsum("bld,ldo->bo", styles, maps).unflatten(1, (3, 2, 2))
    back = torch.einsum("bo,ldo->bld", noise.flatten(1), maps) / 2.0  # √(H·W)
    expected = back.square().sum((1, 2)).div(3).sqrt()
    found = lengths(picture, styles, noise)
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(lengths(2.0 * picture, styles, noise), expected)
    path = PathLength()
    torch.testing.assert_close(path(found), (expected - 0.01 * expected.mean()).square())
    torch.testing.assert_close(path.mean, 0.01 * expected.mean())
    for _ in range(1000):
        path(found.detach())
    torch.testing.assert_close(path.mean, expected.mean(), rtol=1e-3, atol=0)


X = torch.rand(64, 3, 8, 8) * 2 - 1


def nothing(changes: int) -> torch.Tensor:
    return torch.zeros(len(X), changes, 2)


def quantile(u: float) -> float:
    return float(torch.special.ndtri(torch.tensor(u)))


def test_known_changes():
    def moved(name: str, value: float, other: float = 0.0) -> torch.Tensor:
        amount = nothing(MOVING)
        amount[:, CHANGES.index(name), 0], amount[:, CHANGES.index(name), 1] = value, other
        return warped(X, amount)

    close = {"atol": 1e-4, "rtol": 0}
    torch.testing.assert_close(moved("flip", 1.0), X.flip(3), **close)
    torch.testing.assert_close(moved("flip", -1.0), X, **close)
    torch.testing.assert_close(moved("turn", quantile(0.6)), X.rot90(2, (2, 3)), **close)
    quarter = moved("turn", quantile(0.3))
    assert any(torch.allclose(quarter, X.rot90(k, (2, 3)), atol=1e-4) for k in (1, 3))
    shifted = moved("shift", quantile(0.999))  # by a pixel, an eighth of 8
    torch.testing.assert_close(shifted[:, :, :, :-1], X[:, :, :, 1:], **close)
    assert not torch.allclose(moved("rotate", 0.3), X, atol=0.1)

    def tinted(name: str, value: float) -> torch.Tensor:
        amount = nothing(len(CHANGES) - MOVING)
        amount[:, CHANGES.index(name) - MOVING, 0] = value
        return coloured(X, amount)

    torch.testing.assert_close(tinted("bright", 1.0), X + 0.2)
    torch.testing.assert_close(tinted("contrast", 2.0), 2.0 * X)
    mean = X.mean(1, keepdim=True)
    torch.testing.assert_close(tinted("invert", 1.0), X - 2.0 * mean, atol=1e-5, rtol=0)
    torch.testing.assert_close(tinted("saturate", 1.0), mean + 2.0 * (X - mean), atol=1e-5, rtol=0)
    third = tinted("hue", quantile(0.5 + 1 / 3))
    assert any(torch.allclose(third, X.roll(k, 1), atol=1e-4) for k in (1, 2))


def test_augmentation_is_nothing_at_first_and_all_at_one():
    augment, rng = Augment(), Draws(0, 0, len(X))
    assert torch.equal(augment(X, rng, "real"), X)
    augment.p.fill_(1.0)
    changed = augment(X, rng, "real")
    assert all(not torch.allclose(a, b, atol=0.05) for a, b in zip(changed, X, strict=True))
    assert torch.equal(augment(X, rng, "real"), changed) and not torch.equal(augment(X, rng, "fake"), changed)
    augment.p.fill_(0.05)
    same = sum(torch.equal(a, b) for a, b in zip(augment(X, rng, "real"), X, strict=True)) / len(X)
    assert same == pytest.approx(0.95 ** len(CHANGES), abs=0.2)  # 64 pictures: three standard errors


def test_augmentation_follows_how_often_the_critic_is_right():
    augment = Augment(target=0.6, images=1000)
    sure, unsure = torch.tensor([1.0, 2.0, 0.1, 3.0, -1.0] * 4), torch.tensor([1.0, 1.0, 1.0, -1.0])
    augment.adapt(torch.ones(20))
    assert augment.p.item() == pytest.approx(0.02)
    augment.adapt(unsure)  # right in 3 of 4: the mean sign is .5
    assert augment.p.item() == pytest.approx(0.016)
    augment.adapt(sure)  # right in 4 of 5: exactly on target, up to rounding a step either way
    assert augment.p.item() == pytest.approx(0.016, abs=0.0201)
    for _ in range(9):
        augment.adapt(-torch.ones(20))
    assert augment.p.item() == 0.0
    for _ in range(60):
        augment.adapt(torch.ones(20))
    assert augment.p.item() == 1.0


def test_the_duel_has_all_its_parts_when_they_are_due():
    data = ImageSet("some", "train", torch.randint(0, 256, (4, 1, 8, 8)).byte(), torch.arange(4))
    config = StyleGAN2Config(dims=6, width=4, mapping=2, gamma=2.0)
    model = config.build(data.spec, 0)
    task = config.task(model, data, data, config.Sample(), 0)
    assert set(task.players) == {"critic", "generator", "lengths", "augment"}
    assert list(task.turns(Moment(0, 0, 1))) == ["critic", "generator"]
    batch, due = Batch(data.batch(range(4)).x), []
    for step in range(16):
        now, rng = Moment(step, 0, 1), Draws(0, 4 * step, 4)
        due.append({key for player in ("critic", "generator") for key in task.loss(player, batch, rng, now)})
    assert [("r1" in parts) for parts in due] == [False] * 15 + [True]
    assert sum("path" in parts for parts in due) == 4
    part = task.loss("generator", batch, Draws(0, 0, 4), Moment(3, 0, 1))["path"]
    part.mean().backward()
    assert all(p.grad is not None for name, p in model.net.named_parameters() if "mapping" in name or "style" in name)
    assert task.augment.p > 0 and task.lengths.mean > 0
    plain = StyleGAN2Config(dims=6, width=4, mapping=2, augment=0.0, path=0.0)
    bare = plain.task(plain.build(data.spec, 0), data, data, plain.Sample(), 0)
    assert set(bare.players) == {"critic", "generator"} and bare.validate() == {}
    assert "path" not in bare.loss("generator", batch, Draws(0, 0, 4), Moment(3, 0, 1))


def test_two_styles_are_mixed_from_a_layer_on():
    data = ImageSet("some", "train", torch.randint(0, 256, (4, 1, 8, 8)).byte(), torch.arange(4))
    config = StyleGAN2Config(dims=6, width=4, mapping=2)
    for mixing, share in ((0.0, 0.0), (1.0, 1.0), (0.5, 0.5)):
        task = StyleGAN2Config(dims=6, width=4, mapping=2, mixing=mixing).task(
            config.build(data.spec, 0), data, data, config.Sample(), 0
        )
        styles = task.codes(torch.randn(200, 6), None, Draws(0, 0, 200))
        assert styles.shape == (200, 3, 6)
        same = (styles == styles[:, :1]).all(2)
        assert (~same[:, -1]).float().mean().item() == pytest.approx(share, abs=0.12)
        assert (same[:, :-1] | ~same[:, 1:]).all()  # once changed, it stays
        assert math.isclose((~same[:, 1]).float().mean().item(), share / 2, abs_tol=0.12)
