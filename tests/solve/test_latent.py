"""Interpolation on the sphere and temperature."""

import math

import pytest
import torch

from reverie.core.errors import InputError
from reverie.core.exact import Gaussian
from reverie.core.noise import Tape, Tempered, sample_seeds
from reverie.core.schedules import VE, VP
from reverie.solve import Heun, Sampler, initial, sample, slerp

F64 = torch.float64


def norm(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(1).norm(dim=1)


def test_the_norm_is_kept_where_a_straight_line_loses_it():
    a, b = torch.randn(2, 5, 3, 16, 16)
    for w in (0.0, 0.25, 0.5, 0.9, 1.0):
        assert (norm(slerp(a, b, w)) / ((1 - w) * norm(a) + w * norm(b)) - 1).abs().max() < 1e-5
        assert (norm(slerp(a, b, w)) / norm(a) - 1).abs().max() < 0.1
    same = b * (norm(a) / norm(b)).reshape(-1, 1, 1, 1)
    assert (norm(slerp(a, same, 0.5)) / norm(a) - 1).abs().max() < 0.01
    assert float((norm(0.5 * (a + same)) / norm(a)).mean()) == pytest.approx(0.71, abs=0.03)
    assert torch.allclose(slerp(a, b, 0.0), a, atol=1e-5) and torch.allclose(slerp(a, b, 1.0), b, atol=1e-5)


def test_the_angle_turns_at_constant_speed_and_each_sample_is_its_own():
    a, b = torch.tensor([[1.0, 0.0], [2.0, 0.0]], dtype=F64), torch.tensor([[0.0, 1.0], [0.0, 6.0]], dtype=F64)
    got = slerp(a, b, torch.tensor([1 / 3, 0.5], dtype=F64))
    expected = [[math.cos(math.pi / 6), math.sin(math.pi / 6)], [4 * math.sqrt(0.5), 4 * math.sqrt(0.5)]]
    assert torch.allclose(got, torch.tensor(expected, dtype=F64))
    assert torch.allclose(slerp(a[1:], b[1:], 0.5), got[1:])


def test_the_limits():
    a = torch.randn(2, 8, dtype=F64, requires_grad=True)
    same = slerp(a, a.detach(), 0.3)
    assert torch.allclose(same, a)
    near = a.detach() + 1e-9 * torch.randn(2, 8, dtype=F64)
    assert (slerp(a, near, 0.5) - 0.5 * (a + near)).abs().max() < 1e-12
    for b in (-a, torch.zeros_like(a)):
        with pytest.raises(InputError, match="opposite"):
            slerp(a, b, 0.5)
    with pytest.raises(InputError, match="one shape"):
        slerp(a, a[:1], 0.5)


def test_temperature_scales_the_spread_of_gaussian_data():
    covariance = torch.tensor([[0.3, 0.1], [0.1, 0.2]], dtype=F64)
    mean = torch.tensor([0.5, -0.5], dtype=F64)
    for schedule in (VP(), VE()):
        denoise = Gaussian(mean, covariance).denoiser(schedule)
        full, cool = (
            sample(denoise, x=initial(denoise, 50, seed=4, temperature=t).double(), solver=Heun("straight"), steps=40)
            for t in (1.0, 0.6)
        )
        # α(1) is not quite 0, which moves the mean a little
        assert ((cool - mean) - 0.6 * (full - mean)).abs().max() < 5e-3
        assert torch.equal(sample(denoise, 5, seed=4), sample(denoise, x=initial(denoise, 5, seed=4)))
        how = {"solver": Heun("straight"), "steps": 40}
        again = sample(denoise, 50, seed=4, temperature=0.6, **how)
        assert torch.allclose(again, sample(denoise, x=initial(denoise, 50, seed=4, temperature=0.6), **how), atol=1e-6)
        assert torch.equal(again, Sampler(denoise, **how, temperature=0.6).sample(50, seed=4))
    with pytest.raises(InputError, match="temperature"):
        initial(denoise, 2, temperature=0.0)
    for wrong in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(InputError, match=f"positive number.*{wrong}"):
            sample(denoise, 2, temperature=wrong)
    with pytest.raises(InputError, match="given as x="):
        sample(denoise, x=initial(denoise, 2), temperature=0.5)


def test_temperature_is_of_the_first_noise_alone():
    tape, warm = Tape(sample_seeds(1, 3)), Tempered(Tape(sample_seeds(1, 3)), 0.5)
    assert torch.equal(warm.draw("init", 0, (4,)), 0.5 * tape.draw("init", 0, (4,)))
    assert torch.equal(warm.draw("step", 2, (4,)), tape.draw("step", 2, (4,)))
