"""The fit behind ``grids.fitted``: nodes for few steps that serve all mixtures of :mod:`mixtures` at once.

python bench/default_grid.py 10     # prints the inner nodes in λ for ten steps

The loss is the mean over problems of log root mean square and of mean log error, half each, of ``Multistep(4, corrector=0.8,
final_order=1)`` written out below so that torch differentiates it in the nodes. Problems share their nodes, whatever their path.
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

ORDER, SHARE = 4, 0.8
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


def rows(tau: Tensor) -> list[dict[int, Tensor]]:
    """The weights of every move, the corrector of the move before folded in."""
    table, before = [], None
    for i in range(len(tau) - 1):
        order = 1 if i == len(tau) - 2 else ORDER
        own = weights(tau, i, list(range(max(0, i - order + 1), i + 1)))
        row = dict(own)
        if before is not None:
            corrected = weights(tau, i - 1, [*before, i])
            for j, w in corrected.items():
                row[j] = row.get(j, 0.0) + SHARE * (w - before.get(j, 0.0))
        before = own
        table.append(row)
    return table


class Set:
    """The problems on two paths (the third starts between them), with noises that no table uses: all 512 in the plane, else so many."""

    def __init__(self, noises: int, seed: int = 11) -> None:
        cache = Path(__file__).parent / "results" / "references"
        self.problems = []
        for data in DATA:
            for on in ("vp", "flow"):
                denoise, x, exact = problem(data, on, 512, seed, cache)
                some = slice(noises if x.shape[1] > 2 else None)
                first, last = (denoise.schedule.at(lam) for lam in ENDS[on])
                z = x[some] / (first.alpha + first.sigma), exact[some] / (last.alpha + last.sigma)
                self.problems.append((denoise, *z, first, last))

    def loss(self, inner: Tensor) -> Tensor:
        """``inner``: the nodes between the ends, λ."""
        total = torch.zeros((), dtype=torch.float64)
        for denoise, z, exact, first, last in self.problems:
            tau = torch.sigmoid(-torch.cat([torch.tensor([first.lam]), inner, torch.tensor([last.lam])]))
            ys: list[Tensor] = []
            for i, row in enumerate(rows(tau)):
                rho = tau[i] / (1.0 - tau[i])
                scaled = z / (1.0 - tau[i])
                x0 = denoise.x0(scaled, rho)
                ys.append((scaled - x0) / rho - x0)
                z = z + sum(w * ys[j] for j, w in row.items())
            each = (z - exact).square().mean(dim=1)
            total = total + 0.5 * (0.5 * each.mean().log() + (0.5 * (each + 1e-18).log()).mean())
        return total / len(self.problems)


def fit(problems: Set, inner: np.ndarray, iterations: int) -> tuple[np.ndarray, float]:
    """Descend from ``inner``; the nodes stay ordered as a softmax of increments of the logistic coordinate."""
    low, high = COORDINATE.u(-5.2), COORDINATE.u(4.6052)
    u = np.array([low, *(COORDINATE.u(lam) for lam in inner), high])
    below, above, center = COORDINATE.below, COORDINATE.above, COORDINATE.center

    def nodes(theta: Tensor) -> Tensor:
        rise = (low + (high - low) * torch.softmax(theta, 0).cumsum(0)[:-1]) * (below + above) - below
        width = torch.where(rise < 0.0, below, above)
        return center + 2.0 * width * torch.atanh(rise / width)

    def evaluate(theta: np.ndarray) -> tuple[float, np.ndarray]:
        variable = torch.tensor(theta, requires_grad=True)
        loss = problems.loss(nodes(variable))
        loss.backward()
        assert variable.grad is not None
        return loss.item(), variable.grad.numpy()

    found = minimize(evaluate, np.log(np.diff(u)), jac=True, method="L-BFGS-B", options={"maxiter": iterations})
    return nodes(torch.tensor(found.x)).numpy(), float(found.fun)


def main(steps: int, noises: int = 160, iterations: int = 30) -> None:
    problems = Set(noises)
    begin = np.array([p.lam for p in default(steps)[1](path("vp"), steps)[1:-1]])
    inner, loss = fit(problems, begin, iterations)
    with torch.no_grad():
        before = problems.loss(torch.from_numpy(begin)).item()
    print(steps, f"{before:.3f} -> {loss:.3f}", "(" + ", ".join(f"{v:.2f}" for v in inner) + ")", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*map(int, sys.argv[1:]))
