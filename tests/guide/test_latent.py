"""Guides of a model whose diffused space has another shape than its pictures: components of patches."""

import pytest
import torch

from reverie import guide, inverse
from reverie.core.errors import InputError
from reverie.core.exact import Gaussian
from reverie.core.schedules import VP
from reverie.guide import energies
from reverie.guide.freedom import Relative
from reverie.inverse import operators
from reverie.solve import DDIM, DDPM, sample
from reverie.spaces import PatchPCA

PIXELS, CODES = (1, 8, 8), (3, 2, 2)


@pytest.fixture(scope="module")
def latent():
    """Codes N(0, 1), and pictures that are four patches of three components each."""
    torch.manual_seed(0)
    space = PatchPCA.fit(torch.randn(200, *PIXELS).tanh(), patch=4, dims=3).double()
    model = Gaussian(torch.zeros(CODES).double(), torch.eye(12).double()).denoiser(VP())
    model.space = space
    return model, space


def test_a_linear_energy_of_pixels_tilts_the_codes(latent):
    """E = ⟨c, D(z)⟩ with D linear: the score changes by −scale·(α/(α² + σ²))·Dᵀc, exactly."""
    model, space = latent
    weights = torch.randn(PIXELS, dtype=torch.float64)
    z = torch.randn(2, *CODES, dtype=torch.float64)
    (pulled,) = torch.autograd.grad((space.decode(z.requires_grad_()) * weights).sum(), z)
    guided = guide.energy(model, lambda x: (x * weights).sum((1, 2, 3)), 0.7)
    for t in (0.2, 0.6):
        point = model.schedule.point(t)
        change = (guided(z, t).score - model(z, t).score).detach()
        wanted = -0.7 * point.alpha / (point.alpha**2 + point.sigma**2) * pulled
        torch.testing.assert_close(change, wanted, rtol=1e-9, atol=1e-9)


def test_correctors_reach_pixels(latent):
    model, space = latent
    target = space.decode(torch.randn(1, *CODES, dtype=torch.float64)).detach()
    down = operators.SuperResolution(2)
    solver = guide.FreeDoM(DDPM(), energies.lowres(target, 2), Relative(0.5), space)
    free, held = (sample(model, 8, solver=each, steps=60, seed=1).detach() for each in (DDPM(), solver))
    far, near = (inverse.consistency(down, down(target), x.to(target)).mean() for x in (free, held))
    assert near < 0.5 * far
    with pytest.raises(
        InputError, match=r"the measurement is \(1, 4, 4\)"
    ):  # the same corrector, not told of the space
        sample(model, 8, solver=guide.FreeDoM(DDPM(), energies.lowres(target, 2)), steps=4)


def test_windows_are_of_codes_and_the_picture_is_larger(latent):
    model, space = latent
    wide = guide.windows(model, (2, 6), stride=1)
    x = torch.randn(1, 3, 2, 6, dtype=torch.float64)
    drawn = sample(wide, x=x, solver=DDIM(), steps=10)
    assert drawn.shape == (1, 1, 8, 24)
    direct = Gaussian(torch.zeros(3, 2, 6).double(), torch.eye(36).double()).denoiser(VP())
    torch.testing.assert_close(drawn, space.decode(sample(direct, x=x, solver=DDIM(), steps=10)), rtol=1e-6, atol=1e-6)
