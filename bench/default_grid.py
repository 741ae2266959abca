"""The fit behind ``grids.fitted``: nodes and shares of the corrector for few steps, which serve all mixtures of :mod:`mixtures` at once.

python bench/default_grid.py STEPS [NOISES] [ITERATIONS]   # prints the inner nodes in λ and the shares at them

The loss is the mean over problems of log root mean square and of mean log error, the first counted :data:`WEIGHT`, of ``Multistep`` of the
default's orders, written out below so that torch differentiates it. Problems share their nodes, whatever their path. It begins at
the default. The tables in use were found so from the default before them, 10 with 2,000 noises, 7 and 14 with a weight of 0.7; 14 and 20
were then moved as ``grids.FITTED`` says.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from mixtures import DATA, ENDS, path, problem
from reverie.solve.auto import default
from reverie.solve.grids import logistic
from reverie.solve.multistep import Multistep

WEIGHT = 0.8
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


def rows(tau: Tensor, shares: Tensor, solver: Multistep) -> list[dict[int, Tensor]]:
    """The weights of every move, the corrector of the move before folded in."""
    table, before = [], None
    for i in range(len(tau) - 1):
        order = solver.final_order if i == len(tau) - 2 else solver.order
        own = weights(tau, i, list(range(max(0, i - order + 1), i + 1)))
        row = dict(own)
        if before is not None:
            corrected = weights(tau, i - 1, [*before, i])
            for j, w in corrected.items():
                row[j] = row.get(j, 0.0) + shares[i - 1] * (w - before.get(j, 0.0))
        before = own
        table.append(row)
    return table


class Set:
    """The problems on two paths (the third starts between them), with noises that no table uses."""

    def __init__(self, noises: int, seed: int = 11) -> None:
        cache = Path(__file__).parent / "results" / "references"
        self.problems = []
        for data in DATA:
            for on in ("vp", "flow"):
                denoise, x, exact = problem(data, on, noises, seed, cache)
                first, last = (denoise.schedule.at(lam) for lam in ENDS[on])
                z = x / (first.alpha + first.sigma), exact / (last.alpha + last.sigma)
                self.problems.append((denoise, *z, first, last))

    def loss(self, inner: Tensor, shares: Tensor, solver: Multistep) -> Tensor:
        """``inner``: the nodes between the ends, λ."""
        total = torch.zeros((), dtype=torch.float64)
        for denoise, z, exact, first, last in self.problems:
            tau = torch.sigmoid(-torch.cat([torch.tensor([first.lam]), inner, torch.tensor([last.lam])]))
            ys: list[Tensor] = []
            for i, row in enumerate(rows(tau, shares, solver)):
                rho = tau[i] / (1.0 - tau[i])
                scaled = z / (1.0 - tau[i])
                x0 = denoise.x0(scaled, rho)
                ys.append((scaled - x0) / rho - x0)
                z = z + sum(w * ys[j] for j, w in row.items())
            each = (z - exact).square().mean(dim=1)
            typical = (0.5 * (each + 1e-18).log()).mean()
            total = total + WEIGHT * 0.5 * each.mean().log() + (1.0 - WEIGHT) * typical
        return total / len(self.problems)


Fit = tuple[Tensor, Tensor]
"""Nodes in λ, and shares."""


def fit(problems: Set, begin: np.ndarray, shares: np.ndarray, solver: Multistep, iterations: int) -> tuple[Fit, float]:
    """Descend from ``begin``; the nodes stay ordered as a softmax of increments of the logistic coordinate, the shares in (0, 2)."""
    low, high, steps = COORDINATE.u(-5.2), COORDINATE.u(4.6052), len(begin) + 1
    u = np.array([low, *(COORDINATE.u(lam) for lam in begin), high])
    below, above, center = COORDINATE.below, COORDINATE.above, COORDINATE.center

    def read(theta: Tensor) -> Fit:
        rise = (low + (high - low) * torch.softmax(theta[:steps], 0).cumsum(0)[:-1]) * (below + above) - below
        width = torch.where(rise < 0.0, below, above)
        return center + 2.0 * width * torch.atanh(rise / width), 2.0 * torch.sigmoid(theta[steps:])

    def evaluate(theta: np.ndarray) -> tuple[float, np.ndarray]:
        variable = torch.tensor(theta, requires_grad=True)
        loss = problems.loss(*read(variable), solver)
        loss.backward()
        assert variable.grad is not None
        return loss.item(), variable.grad.numpy()

    theta = np.concatenate([np.log(np.diff(u)), np.log(shares / (2.0 - shares))])
    found = minimize(evaluate, theta, jac=True, method="L-BFGS-B", options={"maxiter": iterations})
    return read(torch.tensor(found.x)), float(found.fun)


def main(steps: int, noises: int = 512, iterations: int = 30) -> None:
    problems = Set(noises)
    solver, grid = default(steps)
    assert isinstance(solver, Multistep)
    begin = np.array([p.lam for p in grid(path("vp"), steps)[1:-1]])
    shares = np.clip(solver.shares(steps - 1), 0.05, 1.9)
    (nodes, found), loss = fit(problems, begin, shares, solver, iterations)
    with torch.no_grad():
        before = problems.loss(torch.from_numpy(begin), torch.from_numpy(shares), solver).item()
    table = ", ".join(f"({', '.join(f'{v:.3f}' for v in each)})" for each in (nodes, found))
    print(steps, f"{before:.3f} -> {loss:.3f}", table, flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*map(int, sys.argv[1:]))
