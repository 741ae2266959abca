"""Wrong formulas that are in use elsewhere, each beside ours on a problem where the right answer is known.

Others have their test where the method is: the third order of DPM-Solver++ (test_peers_multistep), the stride of a linspace grid
(test_peers_onestep), √(1 − α²) in float32 (core/test_schedules).
"""

import math

import pytest
import torch

from reverie.core.schedules import VE, VP, Flow
from reverie.solve import DDIM, Multistep, SDEDPMpp, plain
from reverie.solve.variables import CLOCKS, X0, weights

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_third_order_sde_of_diffusers_has_a_wrong_sign(problem) -> None:
    """The weight of its second difference has −½ where the integral has +½: weak order 1 instead of 2."""
    diffusers = pytest.importorskip("diffusers")
    path, mean, std = VP(), 0.4, 0.5

    def theirs(n: int) -> float:
        points = problem.between(path, -1.5, 2.0, n)
        scheduler = diffusers.DPMSolverMultistepScheduler(
            prediction_type="sample",
            algorithm_type="sde-dpmsolver++",
            solver_order=3,
            lower_order_final=False,
            final_sigmas_type="sigma_min",
        )
        scheduler.set_timesteps(n)
        scheduler.sigmas = torch.tensor([p.rho for p in points], dtype=torch.float64)
        scheduler.timesteps = torch.arange(n, 0, -1.0)
        scheduler.set_begin_index(0)
        x, denoise = torch.zeros(1, 2 + n, dtype=torch.float64), problem.Linear(path, mean, std, 2 + n)
        x[0, :2] = torch.tensor([math.hypot(points[0].alpha * std, points[0].sigma), points[0].alpha * mean])
        for i in range(n):
            z = torch.zeros_like(x)
            z[0, 2 + i] = 1.0
            x = scheduler.step(denoise(x, points[i]).x0, scheduler.timesteps[i], x, variance_noise=z).prev_sample
        c, end = x[0], points[-1]
        variance = end.alpha**2 * std**2 + end.sigma**2
        return float(abs(c[0] ** 2 + (c[2:] ** 2).sum() - variance) / variance + abs(c[1] - end.alpha * mean))

    (wrong,) = problem.slopes([theirs(64), theirs(128)])
    assert wrong < 1.3
    for order in (2, 3):
        for eta in (0.5, 1.0):
            (right,) = problem.slopes(problem.weak(SDEDPMpp(order, eta), path, (64, 128)))
            assert right > 1.85, (order, eta)


def test_order_three_of_the_sde_takes_more_from_the_predictions(problem) -> None:
    """With little noise the deterministic error is what is left, and the parabola removes it."""
    errors = [problem.weak(SDEDPMpp(order, 0.02), VP(), (48,))[0] for order in (2, 3)]
    assert errors[1] < 0.3 * errors[0], errors


@pytest.mark.parametrize("path", [VP(), Flow(), VE()], ids=lambda p: type(p).__name__)
def test_the_scale_of_an_exponential_step_is_that_of_its_end(problem, path) -> None:
    """Exponential Adams-Bashforth in x0 has σ at the end of the move before its integral. With σ at the start a constant prediction
    is not even kept, and the error does not fall."""
    points = problem.between(path, -1.0, 1.0, 3)
    *past, at, to = points
    mine = weights(X0, CLOCKS["logsnr"], at, to, [at, *past[::-1]])
    assert sum(mine) == pytest.approx(to.alpha - to.sigma * at.alpha / at.sigma, rel=1e-12)
    wrong = [w * at.sigma / to.sigma for w in mine]
    assert abs(sum(wrong) / sum(mine) - 1.0) > 0.5

    class Wrong(Multistep):
        def rows(self, schedule, points):
            return [
                s._replace(row=s.row._replace(w=tuple(w * s.row.point.sigma / s.to.sigma for w in s.row.w)))
                for s in super().rows(schedule, points)
            ]

    right = problem.errors(Multistep(2, "x0", "logsnr"), path, (32, 64))
    bad = problem.errors(Wrong(2, "x0", "logsnr"), path, (32, 64))
    assert problem.slopes(right)[0] > 1.7
    assert problem.slopes(bad)[0] < 1.2 and bad[1] > 20 * right[1]


@pytest.mark.parametrize("path", [VP(), Flow(), VP(0.1, 30.0)], ids=["VP", "Flow", "VP30"])
def test_what_ddim_loses_takes_the_next_alpha(problem, path) -> None:
    """A DDIM step from the exact marginal of Gaussian data ends short of its variance by exactly ``(α_u − α_t·σ_u/σ_t)²·Var[x0|x_t]``,
    what adjusted DDIM (Heek et al. 2024) puts back. With α_t for α_u it would put back something else."""
    mean, std = 0.4, 0.5
    for a, b in ((-2.0, 0.0), (-1.0, 0.5), (0.0, 2.0)):
        at, to = path.at(a), path.at(b)
        posterior = std**2 * at.sigma**2 / (at.alpha**2 * std**2 + at.sigma**2)
        m, v = problem.moments(DDIM(), path, plain((at, to)), mean, std)
        lost = to.alpha**2 * std**2 + to.sigma**2 - v
        assert m == pytest.approx(to.alpha * mean, rel=1e-12)
        assert lost == pytest.approx((to.alpha - at.alpha * to.sigma / at.sigma) ** 2 * posterior, rel=1e-9)
        wrong = (at.alpha - at.alpha * to.sigma / at.sigma) ** 2 * posterior
        assert abs(wrong / lost - 1.0) > 0.15
