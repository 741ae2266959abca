"""Calibration: better on held-out noise, never worse on validation noise, useless for another model, and a file that comes back."""

import dataclasses

import pytest
import torch

import reverie as rv
from reverie.core.errors import InputError
from reverie.core.exact import GaussianMixture
from reverie.core.schedules import VP
from reverie.solve.auto import choose, default
from reverie.solve.calibrate import Calibrated, calibrate
from reverie.solve.multistep import Multistep


def ring(std: float, radius: float) -> GaussianMixture:
    angle = torch.arange(6, dtype=torch.float64) * (torch.pi / 3)
    means = radius * torch.stack([torch.cos(angle), torch.sin(angle)], 1)
    return GaussianMixture(torch.ones(6).double(), means, std**2 * torch.eye(2).double().expand(6, 2, 2))


def held_out(denoise, solver, grid, steps: int) -> float:
    """Geometric mean of the error over noise that calibration never saw."""
    x = torch.randn(200, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(7)) * VP().prior_std()
    exact = rv.sample(denoise, x=x, steps=300)
    return float(
        (rv.sample(denoise, x=x, solver=solver, grid=grid, steps=steps) - exact).norm(dim=1).log().mean().exp()
    )


@pytest.fixture(scope="module")
def fitted() -> Calibrated:
    return calibrate(ring(0.1, 1.0).denoiser(VP()), 8, budget=5000, trajectories=16, progress=None)


def test_it_is_better_on_held_out_noise_within_its_budget(fitted: Calibrated) -> None:
    denoise = ring(0.1, 1.0).denoiser(VP())
    solver, grid = default(8)
    assert held_out(denoise, fitted.solver, fitted, 8) < 0.5 * held_out(denoise, solver, grid, 8)
    assert fitted.ratio < 0.6
    assert 0 < fitted.evaluations <= 5000


def test_most_of_the_gain_is_the_models_own(fitted: Calibrated) -> None:
    """Negative control: another model keeps at best a small part of what the calibrated one gains."""
    other = ring(1.0, 20.0).denoiser(VP())
    solver, grid = default(8)
    kept = held_out(other, fitted.solver, fitted, 8) / held_out(other, solver, grid, 8)
    assert kept > 2.0 * fitted.ratio and kept > 0.6


def test_noise_instead_of_a_model_keeps_the_default() -> None:
    """A target that cannot be learned: validation refuses the fit, and the default grid comes back."""

    class Erratic(type(ring(0.1, 1.0).denoiser(VP()))):
        def __call__(self, x, t, cond=None):
            estimate = super().__call__(x, t, cond)
            chaos = torch.frac(torch.sin(x.sum(dim=1, keepdim=True) * 12.9898e3) * 43758.5453)
            return estimate.replace(estimate.out + 3.0 * chaos)

    wild = Erratic(ring(0.1, 1.0), VP())
    result = calibrate(wild, 6, budget=2500, trajectories=16, progress=None)
    assert result.ratio <= 1.0
    if result.ratio == 1.0:
        inner = [2.0 * p.lam for p in default(6)[1](VP(), 6)[1:-1]]
        assert result.nodes == pytest.approx(inner)


def test_a_file_comes_back_and_auto_uses_it(fitted: Calibrated, tmp_path) -> None:
    fitted.save(tmp_path / "calibrated-8.json")
    again = Calibrated.load(tmp_path / "calibrated-8.json")
    assert again == fitted
    assert again(VP(), 8) == fitted(VP(), 8)
    denoise = ring(0.1, 1.0).denoiser(VP())
    denoise.calibrations = {(8, 1.0): again}
    assert choose(denoise, "auto", None, 8) == (again.solver, again)
    assert choose(denoise, None, None, 9) == default(9)
    assert choose(denoise, None, None, 8, whole=False) == default(8)
    assert choose(denoise, Multistep(2), None, 8)[0] == Multistep(2)
    other = dataclasses.replace(again, guidance=4.0)
    denoise.calibrations = {(8, 4.0): other}
    assert choose(denoise, "auto", None, 8) == default(8)
    denoise.calibrations = {(8, 1.0): again, (8, 4.0): other}  # one for each scale
    assert choose(denoise, "auto", None, 8) == (again.solver, again)


def test_errors_say_what_to_do(tmp_path, fitted: Calibrated) -> None:
    denoise = ring(0.1, 1.0).denoiser(VP())
    with pytest.raises(InputError, match="2 to 30"):
        calibrate(denoise, 50)
    with pytest.raises(InputError, match="budget=100"):
        calibrate(denoise, 10, budget=100)
    with pytest.raises(InputError, match="trajectories=8"):
        calibrate(denoise, 10, trajectories=8)
    with pytest.raises(InputError, match="calibrated for 8 steps"):
        fitted(VP(), 9)
    (tmp_path / "x.json").write_text("[1]")
    with pytest.raises(InputError, match="not a calibrated grid"):
        Calibrated.load(tmp_path / "x.json")
