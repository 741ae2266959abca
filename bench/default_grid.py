"""The fit behind ``grids.fitted``: nodes and weights of the corrector for few steps, which serve mixtures and trained networks at once.

python bench/default_grid.py STEPS [RUN ...] [--noises 512] [--iterations 30] [--order 4] [--final 1]   # prints nodes in λ, and weights

The loss is the mean over the mixtures of :mod:`mixtures` of log root mean square and of mean log error, the first counted
:data:`WEIGHT`; the same over the networks of the RUNs counts :data:`NETWORKS`. ``Multistep`` is written out below so that torch
differentiates it. All share their nodes, whatever their path, but that networks of larger pictures have theirs earlier as the default
does. It begins at the default.

The tables in use: 5 saw the networks of the demo and of emoji (``bench/recipes``), each counted half, as it stands here; the others
saw mixtures alone, 10 with 2,000 noises and a weight of 0.9, 7 with 0.7, 14 and 20 with a last move of order 1. Joint fits at 10 and 14,
of orders 3 to 5, gained on one side what they lost on the other (order 5 at 14: mixtures 0.6 times, networks 1.6).
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

import reverie as rv
from mixtures import DATA, ENDS, path, problem
from reverie.core.schedules import HostPoint
from reverie.solve.auto import default
from reverie.solve.grids import fitted, logistic
from reverie.solve.multistep import Multistep
from solvers import CACHE, Trained, ended, ours

WEIGHT, NETWORKS = 0.8, 1.0
COORDINATE = logistic(1.1, 1.6, 2.4)
GAUSS = [torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(4)]


def weights(tau: Tensor, begin: int, nodes: list[int]) -> dict[int, Tensor]:
    """``∫ ℓ_j dτ`` over the move from node ``begin`` to the next, for the Lagrange polynomials through ``nodes``."""
    half, middle = 0.5 * (tau[begin + 1] - tau[begin]), 0.5 * (tau[begin + 1] + tau[begin])
    at = half * GAUSS[0] + middle
    result = {}
    for j in nodes:
        basis = torch.ones_like(at)
        for k in nodes:
            if k != j:
                basis = basis * (at - tau[k]) / (tau[j] - tau[k])
        result[j] = half * (basis * GAUSS[1]).sum()
    return result


def rows(tau: Tensor, corrector: Tensor, order: int, final: int) -> list[dict[int, Tensor]]:
    """The weights of every move, the corrector of the move before folded in."""
    table, before = [], None
    for i in range(len(tau) - 1):
        count = final if i == len(tau) - 2 else order
        own = weights(tau, i, list(range(max(0, i - count + 1), i + 1)))
        row = dict(own)
        if before is not None:
            corrected = weights(tau, i - 1, [*before, i])
            for j, w in corrected.items():
                row[j] = row.get(j, 0.0) + corrector[i - 1] * (w - before.get(j, 0.0))
        before = own
        table.append(row)
    return table


@dataclass
class Problem:
    """Noise and where it ends, both on the path with α + σ = 1; ``earlier`` as in ``grids.fitted``, ``share`` of the loss."""

    x0: Callable[[Tensor, Any], Tensor]
    begin: Tensor
    end: Tensor
    first: HostPoint
    last: HostPoint
    earlier: float
    share: float

    def loss(self, inner: Tensor, corrector: Tensor, order: int, final: int) -> Tensor:
        """``inner``: the nodes between the ends, λ."""
        stretch = 1.0 + self.earlier / (self.last.lam + 2.2)
        inner = self.last.lam - stretch * (self.last.lam - inner)
        tau = torch.sigmoid(-torch.cat([torch.tensor([self.first.lam]), inner, torch.tensor([self.last.lam])]))
        z, ys = self.begin, list[Tensor]()
        for i, row in enumerate(rows(tau, corrector, order, final)):
            at, rho = tau[i].to(z), (tau[i] / (1.0 - tau[i])).to(z)
            scaled = z / (1.0 - at)
            x0 = self.x0(scaled, rho)
            ys.append((scaled - x0) / rho - x0)
            z = z + sum(w.to(z) * ys[j] for j, w in row.items())
        each = (z - self.end).flatten(1).square().mean(dim=1).double()
        typical = 0.5 * (each + 1e-18).log().mean()
        return self.share * (WEIGHT * 0.5 * each.mean().log() + (1.0 - WEIGHT) * typical)


def exact(noises: int) -> list[Problem]:
    """The mixtures on two paths (the third starts between them), with noises that no table uses."""
    problems = []
    for data in DATA:
        for on in ("vp", "flow"):
            denoise, x, end = problem(data, on, noises, 11, CACHE)
            first, last = (denoise.schedule.at(lam) for lam in ENDS[on])
            z = x / (first.alpha + first.sigma), end / (last.alpha + last.sigma)
            problems.append(Problem(denoise.x0, *z, first, last, 0.0, 1.0 / (2 * len(DATA))))
    return problems


def network(run: str, steps: int, share: float) -> Problem:
    """A trained network, as many noises as take it a few seconds."""
    base: Any = rv.load(run)
    for parameter in base.net.parameters():
        parameter.requires_grad_(False)
    noises = 48 if base.shape[0] == 1 else 24
    model = Trained(base, rv.Cond(label=[i % 10 for i in range(noises)]) if base.conditions else None)
    first, last = (base.schedule.at(lam) for lam in ENDS["flow"])
    x = torch.randn(noises, *base.shape, generator=torch.Generator().manual_seed(77)) * first.sigma
    with torch.no_grad():
        end = ours(model, x, Multistep(3, corrector=1.0), ended(ENDS["flow"], logistic(0.0, 2.0, 2.0)), 100)

    def x0(scaled: Tensor, rho: Tensor) -> Tensor:
        point = base.schedule.at(-rho.log())
        return model(scaled * point.alpha, point).x0

    grid = default(steps, dimensions=int(np.prod(base.shape)))[1]
    earlier = grid.earlier if isinstance(grid, fitted) else 0.0
    return Problem(x0, x / (first.alpha + first.sigma), end / (last.alpha + last.sigma), first, last, earlier, share)


def fit(problems: list[Problem], solver: Multistep, begin: np.ndarray, corrector: np.ndarray, most: int) -> None:
    """Descend from ``begin``; the nodes stay ordered as a softmax of increments of the logistic coordinate, the weights in (0, 2)."""
    low, high, steps = COORDINATE.u(-5.2), COORDINATE.u(4.6052), len(begin) + 1
    u = np.array([low, *(COORDINATE.u(lam) for lam in begin), high])
    below, above, center = COORDINATE.below, COORDINATE.above, COORDINATE.center

    def read(theta: Tensor) -> tuple[Tensor, Tensor]:
        rise = (low + (high - low) * torch.softmax(theta[:steps], 0).cumsum(0)[:-1]) * (below + above) - below
        width = torch.where(rise < 0.0, below, above)
        return center + 2.0 * width * torch.atanh(rise / width), 2.0 * torch.sigmoid(theta[steps:])

    def evaluate(theta: np.ndarray) -> tuple[float, np.ndarray]:
        variable, total = torch.tensor(theta, requires_grad=True), 0.0
        for each in problems:  # one graph at a time
            loss = each.loss(*read(variable), solver.order, solver.final_order)
            loss.backward()
            total += loss.item()
        assert variable.grad is not None
        return total, variable.grad.numpy()

    theta = np.concatenate([np.log(np.diff(u)), np.log(corrector / (2.0 - corrector))])
    found = minimize(evaluate, theta, jac=True, method="L-BFGS-B", options={"maxiter": most})
    table = ", ".join(f"({', '.join(f'{v:.3f}' for v in each)})" for each in read(torch.tensor(found.x)))
    print(steps, f"{evaluate(theta)[0]:.3f} -> {found.fun:.3f}", table, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("steps", type=int)
    parser.add_argument("runs", nargs="*")
    for name, value in (("noises", 512), ("iterations", 30), ("order", None), ("final", None)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    solver, grid = default(given.steps)
    assert isinstance(solver, Multistep)
    solver = Multistep(
        given.order or solver.order, final_order=given.final or solver.final_order, corrector=solver.corrector
    )
    problems = exact(given.noises) + [network(run, given.steps, NETWORKS / len(given.runs)) for run in given.runs]
    begin = np.array([p.lam for p in grid(path("vp"), given.steps)[1:-1]])
    fit(problems, solver, begin, np.clip(solver.corrector_weights(given.steps - 1), 0.05, 1.9), given.iterations)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
