"""Calibration: better on held-out noise, never worse on validation noise, useless for another model, and a file that comes back."""

import dataclasses

import pytest
import torch

import reverie as rv
from reverie.core.condition import Cond
from reverie.core.errors import InputError
from reverie.core.exact import GaussianMixture
from reverie.core.schedules import VP
from reverie.guide import cfg
from reverie.solve.auto import choose, default, stock
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


class Counted(type(ring(0.1, 1.0).denoiser(VP()))):
    """Counts the samples that it is given."""

    evaluations = 0

    def __call__(self, x, t, cond=None):
        self.evaluations += len(x)
        return super().__call__(x, t, cond)


@pytest.fixture(scope="module")
def counted() -> Counted:
    return Counted(ring(0.1, 1.0), VP())


@pytest.fixture(scope="module")
def fitted(counted: Counted) -> Calibrated:
    return calibrate(counted, 8, budget=5000, trajectories=16, progress=None)


def test_it_is_better_on_held_out_noise_within_its_budget(counted: Counted, fitted: Calibrated) -> None:
    assert 0 < fitted.evaluations == counted.evaluations <= 5000
    denoise = ring(0.1, 1.0).denoiser(VP())
    solver, grid = default(8)
    assert held_out(denoise, fitted.solver, fitted, 8) < 0.5 * held_out(denoise, solver, grid, 8)


def test_the_ratio_is_that_of_the_validation_noise(fitted: Calibrated) -> None:
    """exp of the mean of log(‖x̂ − x*‖ + δ) over the last six of the seed's sixteen samples, drawn as anyone draws them."""
    denoise = ring(0.1, 1.0).denoiser(VP())
    exact = rv.sample(denoise, 16, steps=300, seed=0)
    new, usual = (
        (rv.sample(denoise, 16, solver=solver, grid=grid, steps=8, seed=0) - exact).double().square().mean(1).sqrt()
        for solver, grid in ((fitted.solver, fitted), default(8))
    )
    gains = torch.log(new + 1e-4) - torch.log(usual + 1e-4)
    assert fitted.ratio == pytest.approx(float(gains[10:].mean().exp()), rel=0.1)
    assert fitted.ratio != pytest.approx(
        float(gains[:10].mean().exp()), rel=0.5
    )  # control: of the noise that was fitted


def test_most_of_the_gain_is_the_models_own(fitted: Calibrated) -> None:
    """Negative control: another model keeps at best a small part of what the calibrated one gains."""
    other = ring(1.0, 20.0).denoiser(VP())
    solver, grid = default(8)
    kept = held_out(other, fitted.solver, fitted, 8) / held_out(other, solver, grid, 8)
    assert kept > 2.0 * fitted.ratio and kept > 0.6


def test_a_fit_that_validation_refuses_leaves_the_best_of_the_stock_plans() -> None:
    """Ten trajectories of one ring are fitted, six of another, narrower one validate: what serves the first harms the second."""
    rings, broad, narrow = (ring(0.1, 1.0), ring(0.02, 0.2)), 0, 1
    means, covariances = (torch.cat([getattr(each, name) for each in rings]) for name in ("means", "covariances"))
    denoise = GaussianMixture(torch.ones(12).double(), means, covariances, [broad] * 6 + [narrow] * 6).denoiser(VP())
    fit = lambda labels: calibrate(denoise, 8, cond=Cond(label=labels), budget=5000, trajectories=16, progress=None)  # noqa: E731
    refused, plans = fit([broad] * 10 + [narrow] * 6), stock(8)
    ratios = [ratio for _, ratio in refused.tried]
    assert len(ratios) == len(plans) and ratios[0] == 1.0 and refused.ratio == min(ratios)
    solver, grid = plans[ratios.index(min(ratios))]
    assert refused.solver == solver
    assert refused.nodes == pytest.approx([2.0 * point.lam for point in grid(VP(), 8)[1:-1]])
    assert refused.story().splitlines()[-1].startswith("fitting its times and corrector brought the best no nearer")
    served = fit([broad] * 16)  # control: the same fit, validated on the ring it is for
    assert served.ratio < 0.8 * min(ratio for _, ratio in served.tried) and served.ratio < 0.5


def test_it_says_what_it_tried(counted: Counted, fitted: Calibrated) -> None:
    """Every stock plan with its error, the default's first, the best, then what the fit made of it."""
    first, *tried, last = fitted.story().splitlines()
    assert first == "tried, by the typical error on noise that is not fitted:" and len(tried) == len(stock(8))
    errors = [float(line.split()[0]) for line in tried]
    exact = rv.sample(counted, 16, steps=300, seed=0)[10:]  # the noise that validates, drawn as anyone draws it
    for said, (solver, grid) in zip(errors, stock(8), strict=True):
        end = rv.sample(counted, 16, solver=solver, grid=grid, steps=8, seed=0)[10:]
        typical = float(((end - exact).double().square().mean(1).sqrt() + 1e-4).log().mean().exp())
        assert said == pytest.approx(typical, rel=0.1)
    assert "Multistep(corrector=fitted, final_order=2) on fitted() (the default" in tried[0]
    assert [i for i, line in enumerate(tried) if "the best" in line] == [errors.index(min(errors))]
    assert float(last.split()[0]) == pytest.approx(errors[0] * fitted.ratio, rel=0.05)
    older = dataclasses.replace(fitted, usual=None)  # a file that lacks it says ratios
    assert older.story().splitlines()[1].split()[0] == "1" and "of the default's" in older.story()


def test_a_guided_calibration_ends_nearer_than_every_stock_plan() -> None:
    """On a mixture of three narrow classes, whose guided estimate is closed: on other noise, and only at the scale it is for."""
    angle = torch.arange(6, dtype=torch.float64) * (torch.pi / 3)
    means = torch.stack([torch.cos(angle), torch.sin(angle)], 1)
    covariances = 0.01 * torch.eye(2).double().expand(6, 2, 2)
    exact = GaussianMixture(torch.ones(6).double(), means, covariances, [0, 0, 1, 1, 2, 2]).denoiser(VP())
    guided, labels = cfg(exact, 2.5), [i % 3 for i in range(16)]
    fit = calibrate(guided, 6, cond=Cond(label=labels), budget=4000, trajectories=16, progress=None)
    plans, ratios = list(dict.fromkeys(stock(6, 2.5, 2))), [ratio for _, ratio in fit.tried]
    assert fit.guidance == 2.5 and len(ratios) == len(plans) and fit.ratio <= min(ratios)
    x = torch.randn(120, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(7)) * VP().prior_std()
    cond = Cond(label=[i % 3 for i in range(120)])
    end = rv.sample(guided, x=x, cond=cond, solver=Multistep(2, corrector=1.0), grid="logsnr", steps=200)
    error = lambda model, solver, grid: float(  # noqa: E731
        (rv.sample(model, x=x, cond=cond, solver=solver, grid=grid, steps=6) - end).norm(dim=1).log().mean().exp()
    )
    own, best = error(guided, fit.solver, fit), min(error(guided, *plan) for plan in plans)
    assert own < best
    guided.base.calibrations = {(6, 2.5): fit}
    assert choose(guided, None, None, 6) == (fit.solver, fit)
    assert choose(cfg(exact, 2.0), None, None, 6) == default(6, 2.0, 2)


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


def test_an_older_file_opens(tmp_path) -> None:
    """What `reverie calibrate` left in a run before the weights of the corrector had that name; the words of the file have not changed."""
    (tmp_path / "calibrated-3-1.json").write_text(
        """{
 "nodes": [-2.5, 1.25],
 "start": null,
 "end": 9.2,
 "solver": {
  "name": "Multistep",
  "order": 3,
  "variable": "straight",
  "clock": "tau",
  "corrector": [0.5, 0.75],
  "final_order": 2
 },
 "guidance": 1.0,
 "ratio": 0.5,
 "evaluations": 9000
}
"""
    )
    solver = Multistep(3, corrector=(0.5, 0.75), final_order=2)
    assert Calibrated.load(tmp_path / "calibrated-3-1.json") == Calibrated(
        (-2.5, 1.25), None, 9.2, solver, 1.0, 0.5, 9000
    )


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
