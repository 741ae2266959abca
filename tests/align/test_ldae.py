"""l-DAE: paths and weights in closed form, the loss by component against the pixels."""

from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from torch import nn

import reverie as rv
from reverie.align import ldae
from reverie.align.ldae import Additive, At, Deconstructed, InPicture, Linear, Settings, signal
from reverie.core.errors import InputError
from reverie.core.times import Uniform
from reverie.learn import Draws
from reverie.nets import taps
from reverie.nets.config import DiTConfig
from reverie.spaces import PatchAE, PatchPCA

NET = DiTConfig(width=16, depth=2, heads=2)
FINAL = Settings(
    tokenizer="pca", dims=5, labels=False, path="additive", kind="x0", weight="signal", sees="picture", says="picture"
)


@pytest.fixture(scope="module")
def images():
    return rv.data.load("mnist5k", size=16).batch(range(200)).x


@pytest.fixture(scope="module")
def space(images):
    return PatchPCA.fit(images, 4, 5)


@pytest.mark.parametrize("path", [Linear(), Additive()])
def test_paths_have_their_inverse_and_derivatives(path):
    t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    torch.testing.assert_close(path.t_of_lam(path.lam(t)), t)
    for f, d in ((path.alpha, path.d_alpha), (path.sigma, path.d_sigma)):
        slope = torch.func.jvp(f, (t,), (torch.ones_like(t),))[1]
        torch.testing.assert_close(d(t), slope)


def test_paths_and_weight_are_those_of_the_paper():
    t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    torch.testing.assert_close(Linear().alpha(t) ** 2, 1 - t)
    torch.testing.assert_close(Linear().sigma(t) ** 2, t)
    torch.testing.assert_close(Additive().alpha(t), torch.ones_like(t))
    torch.testing.assert_close(Additive().sigma(t), 2**0.5 * t)
    torch.testing.assert_close(signal(Linear().lam(t)), Linear().alpha(t) ** 2)
    torch.testing.assert_close(signal(Additive().lam(t)), 1 / (1 + Additive().sigma(t) ** 2))


class Says(nn.Module):
    """A network that knows the answer, with an offset."""

    conditions: ClassVar = {}

    def __init__(self, answer, offset=0.0):
        super().__init__()
        self.answer, self.offset = answer, offset

    def forward(self, x, time, cond=None):
        return self.answer + self.offset


def deconstructed(net, space, **changes):
    settings = replace(FINAL, **changes)
    denoise = rv.core.denoiser.NetDenoiser(
        InPicture(net, space), ldae.PATHS[settings.path], "x0", shape=space.code_shape((1, 16, 16)), space=space
    )
    return Deconstructed(denoise, Uniform(), settings, weight=ldae.WEIGHTS[settings.weight])


T = torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=torch.float64)


def test_by_component_with_equal_weights_the_loss_is_that_of_the_pixels(space, images):
    """Parseval: V_full is orthonormal."""
    x, wrong = images[:4], torch.randn(4, 1, 16, 16)
    task = deconstructed(Says(wrong), space, target="original", off=1.0)
    pixels = signal(Additive().lam(T)).float() * (x - wrong).square().flatten(1).mean(1)
    loss = task.errors(x, T, Draws(0, 0, 4), None) * space.scale**2
    torch.testing.assert_close(loss, pixels, rtol=1e-5, atol=1e-6)
    less = deconstructed(Says(wrong), space, target="original").errors(x, T, Draws(0, 0, 4), None) * space.scale**2
    in_plane = (space.decode(space.encode(x)) - space.decode(space.encode(wrong))).square().flatten(1).mean(1)
    expected = 0.1 * pixels + 0.9 * signal(Additive().lam(T)).float() * in_plane
    torch.testing.assert_close(less, expected, rtol=1e-4, atol=1e-6)
    assert (less < 0.7 * pixels).all()


def test_a_perfect_network_pays_nothing_for_any_target(space, images):
    x = images[:4]
    z = space.encode(x)
    rng = Draws(0, 0, 4)
    free = {"rtol": 0, "atol": 1e-9}
    nothing = torch.zeros(4)
    torch.testing.assert_close(
        deconstructed(Says(x), space, target="original").errors(x, T, rng, None), nothing, **free
    )
    plane = space.decode(z)
    torch.testing.assert_close(deconstructed(Says(plane), space).errors(x, T, rng, None), nothing, **free)
    assert (deconstructed(Says(plane), space, target="original").errors(x, T, rng, None) > 1e-3).all()
    for kind, answer in (("x0", z), ("eps", rng.normal("noise", z.shape[1:]))):
        denoise = rv.core.denoiser.NetDenoiser(Says(answer), Linear(), kind, shape=z.shape[1:], space=space)
        task = ldae.task(Settings(kind=kind), denoise)
        torch.testing.assert_close(task.errors(x, T, rng, None), nothing, **free)
        t = T[0].item()
        x_t = Linear().alpha(t) * z + Linear().sigma(t) * rng.normal("noise", z.shape[1:])
        torch.testing.assert_close(denoise(x_t, t).x0, z, rtol=1e-4, atol=1e-4)


def test_noise_off_the_plane_never_reaches_the_network(space, images):
    """It sees Vᵀz_n: the mean patch and d directions, whatever the noise."""
    seen = []

    class Spy(Says):
        def forward(self, x, time, cond=None):
            seen.append(x)
            return x

    deconstructed(Spy(0.0), space).errors(images[:4], T, Draws(0, 0, 4), None)
    assert space.components(seen[0])[:, 5:].abs().max() < 1e-5 < space.components(seen[0])[:, :5].abs().max()


def test_a_variant_is_a_denoiser_whose_blocks_can_be_tapped(space, images):
    torch.manual_seed(0)
    for settings in (replace(FINAL, says="codes"), FINAL, Settings(tokenizer="pca", dims=5)):
        denoise = ldae.build(settings, space, (1, 16, 16), NET, classes=10)
        assert set(denoise.conditions) == ({"label"} if settings.labels else set())
        assert rv.sample(denoise, n=2, steps=2).shape == (2, 1, 16, 16)
        assert taps.features(denoise, ["blocks.0"], space.encode(images[:3]), 0.1)["blocks.0"].shape == (3, 16, 16)


def test_one_noise_level_is_one_noise_level(space):
    task = ldae.task(replace(FINAL, level=0.408), ldae.build(FINAL, space, (1, 16, 16), NET))
    assert task.times == At(0.408) and (task.times(torch.rand(5)) == 0.408).all()
    assert Additive().sigma(0.408) == pytest.approx(3**-0.5, abs=1e-3)


def test_what_does_not_go_together_is_said(space):
    with pytest.raises(InputError, match="sees pictures"):
        ldae.build(replace(FINAL, sees="codes"), space, (1, 16, 16), NET)
    with pytest.raises(InputError, match="principal components"):
        ldae.build(FINAL, PatchAE(1, 4, 5), (1, 16, 16), NET)
