"""One-step and stochastic solvers against diffusers and azula where the formula is the same, and a defect of theirs beside ours."""

from typing import Any

import pytest
import torch
from torch import Tensor

from reverie.core.exact import Gaussian
from reverie.core.noise import Tape, sample_seeds
from reverie.core.paths import Table
from reverie.core.schedules import VP
from reverie.solve import DDIM, DDPM, Heun, SDEDPMpp, iterate, plain

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
TABLE = Table.scaled_linear()


def ours(problem, solver, points) -> tuple[Any, Tensor, Tensor, Tensor]:
    """The denoiser, the start, our end, and the noise of each move, (moves, 5, 2)."""
    denoise = problem.mixture().denoiser(TABLE)
    x = torch.randn(5, 2, dtype=torch.float64)
    tape = Tape(sample_seeds(0, 5), torch.float64)
    *_, last = iterate(denoise, x=x, solver=solver, walk=plain(points), tape=tape)
    return denoise, x, last.x, torch.stack([tape.draw("step", i, (2,)) for i in range(len(points))])


def entries(steps: int, spacing: str) -> list[int]:
    ratio = 1000 // steps
    return (
        [round(v) for v in torch.linspace(999, 0, steps).tolist()]
        if spacing == "linspace"
        else [ratio * i for i in range(steps)][::-1]
    )


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_is_that_of_diffusers(problem, eta: float) -> None:
    diffusers = pytest.importorskip("diffusers")
    steps = 10
    scheduler = diffusers.DDIMScheduler(
        trained_betas=list(TABLE.betas), prediction_type="sample", clip_sample=False, set_alpha_to_one=True
    )
    scheduler.alphas_cumprod = torch.cumprod(1.0 - torch.tensor(TABLE.betas, dtype=torch.float64), 0)
    scheduler.final_alpha_cumprod = torch.ones((), dtype=torch.float64)
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == entries(steps, "leading")
    points = (*(TABLE.point(TABLE.time(i)) for i in entries(steps, "leading")), TABLE.clean())
    denoise, x, end, noise = ours(problem, DDIM(eta), points)
    for i, t in enumerate(scheduler.timesteps):
        out = denoise(x, points[i]).x0
        x = scheduler.step(out, t, x, eta=eta, variance_noise=noise[i]).prev_sample
    torch.testing.assert_close(end, x, rtol=0, atol=1e-6)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_ddpm_is_that_of_diffusers(problem, variance: str, monkeypatch) -> None:
    """The mean, and the deviation it adds, at moves of the table. Its noise is its own, so it is given ours."""
    diffusers = pytest.importorskip("diffusers")
    from diffusers.schedulers import scheduling_ddpm

    steps = 10
    scheduler = diffusers.DDPMScheduler(
        trained_betas=list(TABLE.betas), prediction_type="sample", clip_sample=False, variance_type=f"fixed_{variance}"
    )
    scheduler.alphas_cumprod = torch.cumprod(1.0 - torch.tensor(TABLE.betas, dtype=torch.float64), 0)
    scheduler.one = torch.ones((), dtype=torch.float64)
    scheduler.set_timesteps(steps)
    points = (*(TABLE.point(TABLE.time(i)) for i in entries(steps, "leading")), TABLE.clean())
    denoise, x, end, noise = ours(problem, DDPM(variance), points)  # pyright: ignore[reportArgumentType]
    queue = iter(noise)
    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *a, **k: next(queue))
    for i, t in enumerate(scheduler.timesteps):
        x = scheduler.step(denoise(x, points[i]).x0, int(t), x).prev_sample
    torch.testing.assert_close(end, x, rtol=0, atol=1e-6)


def test_sde_dpmpp_is_that_of_diffusers(problem) -> None:
    diffusers = pytest.importorskip("diffusers")
    steps, path = 9, VP()
    points = problem.between(path, -2.0, 3.0, steps)
    scheduler = diffusers.DPMSolverMultistepScheduler(
        prediction_type="sample",
        algorithm_type="sde-dpmsolver++",
        solver_order=2,
        lower_order_final=False,
        final_sigmas_type="sigma_min",
    )
    scheduler.set_timesteps(steps)
    scheduler.sigmas = torch.tensor([p.rho for p in points], dtype=torch.float64)
    scheduler.timesteps = torch.arange(steps, 0, -1.0)
    scheduler.set_begin_index(0)
    denoise = problem.mixture().denoiser(path)
    x = torch.randn(5, 2, dtype=torch.float64)
    tape = Tape(sample_seeds(0, 5), torch.float64)
    *_, last = iterate(denoise, x=x, solver=SDEDPMpp(2, 1.0), walk=plain(points), tape=tape)
    for i, t in enumerate(scheduler.timesteps):
        x = scheduler.step(denoise(x, points[i]).x0, t, x, variance_noise=tape.draw("step", i, (2,))).prev_sample
    torch.testing.assert_close(last.x, x, rtol=0, atol=1e-6)


def test_a_linspace_grid_needs_its_own_next_time() -> None:
    """diffusers steps to t − T//N whatever the grid. On a linspace grid that is not where the next evaluation is made: DDIM, exact for a
    point mass on any grid, then loses the noise that it carries."""
    mean = torch.tensor([0.3, -0.9], dtype=torch.float64)
    denoise = Gaussian(mean, torch.zeros(2, 2, dtype=torch.float64)).denoiser(TABLE)
    alpha_bar = torch.cumprod(1.0 - torch.tensor(TABLE.betas, dtype=torch.float64), 0)
    eps = torch.randn(16, 2, dtype=torch.float64)
    for steps in (15, 30, 60):
        grid = entries(steps, "linspace")
        points = tuple(TABLE.point(TABLE.time(i)) for i in grid)
        x = points[0].alpha * mean + points[0].sigma * eps
        *_, last = iterate(denoise, x=x, solver=DDIM(), walk=plain(points))
        torch.testing.assert_close((last.x - points[-1].alpha * mean) / points[-1].sigma, eps, rtol=1e-9, atol=1e-9)
        for i in grid[:-1]:
            estimate = denoise(x, TABLE.point(TABLE.time(i)))
            before = alpha_bar[max(i - 1000 // steps, 0)].item()
            x = before**0.5 * estimate.x0 + (1.0 - before) ** 0.5 * estimate.eps
        kept = ((x - points[-1].alpha * mean) / points[-1].sigma / eps).mean().item()
        assert abs(kept - 1.0) > 0.05


@pytest.mark.parametrize(
    ("name", "options", "solver"),
    [
        ("DDPMSampler", {}, DDPM()),
        ("DDIMSampler", {"eta": 0.25}, DDIM(0.5)),
        ("EulerSampler", {}, DDIM()),
        ("HeunSampler", {}, Heun()),
    ],
    ids=lambda v: str(v),
)
def test_samplers_of_azula(problem, name: str, options, solver, monkeypatch) -> None:
    """Their η is the square of DDIM's."""
    sample = pytest.importorskip("azula.sample")
    steps, path = 8, VP()
    points = problem.between(path, -2.0, 3.0, steps)
    denoise = problem.mixture().denoiser(path)

    class Exact(torch.nn.Module):
        def schedule(self, t: Tensor) -> tuple[Tensor, ...]:
            at = points[round((1.0 - float(t)) * steps)]
            return tuple(torch.tensor(v, dtype=torch.float64) for v in (at.alpha, at.sigma))

        def forward(self, x: Tensor, t: Tensor) -> Any:
            return type("Posterior", (), {"mean": denoise(x, points[round((1.0 - float(t)) * steps)]).x0})

    x = torch.randn(5, 2, dtype=torch.float64)
    tape = Tape(sample_seeds(0, 5), torch.float64)
    *_, last = iterate(denoise, x=x, solver=solver, walk=plain(points), tape=tape)
    draws = iter(range(100))
    monkeypatch.setattr(torch, "randn_like", lambda x: tape.draw("step", next(draws), (2,)))
    theirs = getattr(sample, name)(Exact(), steps=steps, silent=True, dtype=torch.float64, **options)(x)
    torch.testing.assert_close(last.x, theirs, rtol=0, atol=1e-6)
