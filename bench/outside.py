"""Where the default stands on a network: all peers on few noises, the best of them on more, and ours beside them.

Everybody starts and ends at the same λ. What has been measured is kept in ``results``, and a run goes on where it stopped.
"""

import json
import math
import runpy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

import reverie as rv
from peers import configurations
from reverie.core.denoiser import Denoiser
from reverie.solve.auto import FAR, stock, suited
from reverie.solve.calibrate import TRAJECTORIES
from reverie.solve.grids import karras, logistic
from reverie.solve.multistep import Multistep
from reverie.solve.probe import probed
from solvers import CACHE, RESULTS, Trained, ended, errors, ours, peer, peer_grids, write

NFE = (10, 5, 20, 40)
SCALES = (1.0, 2.5)
OURS = ("auto", "default", "best of stock")
"""The last is what any choice among the stock plans could reach: the one that ends nearest on the very noises of the table."""
SCANNED, MEASURED, BEST = 8, 32, 8
"""Noises for all peers, noises for the best, and how many are those."""
NEAR = 12
"""How many of the best at ten evaluations, by either measure, are tried at other numbers."""
CHOSEN = (
    "azula zEABSampler", "azula vABSampler", "azula xEABSampler", "diffusers IPNDM", "diffusers DEISMultistep solver_order=3",
    "diffusers UniPCMultistep solver_order=2 solver_type=bh2", "diffusers UniPCMultistep solver_order=3 solver_type",
    "diffusers DPMSolverMultistep solver_order=3", "diffusers SASolver predictor_order=3",
    "diffusers DPMSolverMultistep solver_order=2 algorithm_type=dpmsolver lower_order_final=False",
    "diffusers DPMSolverMultistep solver_order=2 solver_type=midpoint lower_order_final=True",
)  # fmt: skip
"""How the names of those begin that came within 1.3 times the best in a scan of all 58 on three networks, four times or more, and 2M."""


COMMON = "diffusers IPNDM"
"""On the beta grid, the single configuration that is best on the fitting half at ten evaluations."""
ROBUST = "diffusers DPMSolverMultistep solver_order=2 solver_type=midpoint lower_order_final=True"
"""On a uniform grid in λ, what the spread of ours is judged by."""


@dataclass(frozen=True)
class Case:
    """A network at a guidance scale, with its noises and where its flow takes them."""

    name: str
    denoise: Denoiser
    scale: float

    @property
    def key(self) -> str:
        return f"{self.name} {self.scale:g}"

    @cached_property
    def ends(self) -> tuple[float, float]:
        """λ where everybody starts and ends: what the network has seen, and not beyond σ/α = 0.01."""
        low, high = self.denoise.schedule.lam_range()
        return low, min(4.6052, high)

    def bound(self, noises: int) -> Trained:
        denoise, classes = self.denoise, getattr(self.denoise.conditions.get("label"), "classes", 0)
        if self.scale != 1.0:
            denoise = rv.guide.cfg(denoise, self.scale)
        return Trained(denoise, rv.Cond(label=[i % classes for i in range(noises)]) if classes else None)

    def problem(self, noises: int, seed: int) -> tuple[Trained, Tensor, Tensor]:
        """The model, the noise and the end of its flow by fine steps, which is kept."""
        bound, shape = self.bound(noises), (noises, *self.denoise.shape)
        x = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        x = x * self.denoise.schedule.at(self.ends[0]).sigma
        file = CACHE / f"{self.key}-{noises}-{seed}.npy"
        if file.is_file():
            return bound, x, torch.from_numpy(np.load(file))
        exact = fine(bound, x, self.ends)
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, exact.numpy())
        return bound, x, exact


def fine(bound: Trained, x: Tensor, ends: tuple[float, float], steps: int = 400) -> Tensor:
    """Where the flow ends, by order 2: of a network that is off at pure noise in ε, as it converges slowly in ε − x0."""
    found = probed(bound.denoise)
    if found is not None and found.far > FAR:
        return ours(bound, x, Multistep(2, "eps", "logsnr", corrector=1.0), ended(ends, karras(4.0)), steps)
    return ours(bound, x, Multistep(2, corrector=1.0), ended(ends, logistic(0.0, 2.0, 2.0)), steps)


def scan(case: Case) -> dict[str, list[float]]:
    """The errors of the peers on every grid, by ``evaluations|peer|grid``."""
    bound, x, exact = case.problem(SCANNED, 5)
    found: dict[str, list[float]] = {}
    for nfe in NFE:
        near = best(found, 10, NEAR)
        for name, _, steps in configurations():
            for grid in peer_grids(bound.schedule, case.ends, steps(nfe)) if name.startswith(CHOSEN) else ():
                if nfe == 10 or f"{name}|{grid}" in near:
                    found[f"{nfe}|{name}|{grid}"] = errors(peer(name, grid, case.ends, bound, x, nfe), exact)
    return found


def best(found: dict[str, list[float]], nfe: int, count: int = BEST) -> list[str]:
    """``peer|grid`` of the best, half by each measure."""
    here = {k.split("|", 1)[1]: v for k, v in found.items() if k.startswith(f"{nfe}|")}
    rank = [sorted(here, key=lambda k, i=i: (math.isnan(here[k][i]), here[k][i])) for i in (0, 1)]
    return list(dict.fromkeys(k for pair in zip(*rank, strict=True) for k in pair))[:count]


def measure(case: Case, found: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Rows of the best peers of the scan and of those that every network has, on other noises."""
    bound, x, exact = case.problem(MEASURED, 6)
    rows = []
    for nfe in NFE:
        common = "beta" if "beta" in peer_grids(bound.schedule, case.ends, nfe) else "logsnr"
        for each in dict.fromkeys([*best(found, nfe), f"{COMMON}|{common}", f"{ROBUST}|logsnr"]):
            name, grid = each.split("|")
            rows.append(row(case, nfe, f"{name}, {grid}", peer(name, grid, case.ends, bound, x, nfe), exact))
    return rows


def own(case: Case) -> list[dict[str, Any]]:
    """Rows of ours, with the probe, without, and the best stock plan in hindsight."""
    bound, x, exact = case.problem(MEASURED, 6)
    size, rows = int(np.prod(case.denoise.shape)), []
    for nfe in NFE:
        plans = [suited(probed(case.denoise), nfe, case.scale, size), *stock(nfe, case.scale, size)]
        outs = [ours(bound, x, solver, ended(case.ends, grid), nfe) for solver, grid in plans]
        nearest = min(outs, key=lambda out: errors(out, exact)[1])
        rows += [row(case, nfe, name, out, exact) for name, out in zip(OURS, (*outs[:2], nearest), strict=True)]
    return rows


def calibrated(case: Case) -> list[dict[str, Any]]:
    """Rows of calibrations: ``ratio`` is the error over auto's on other noises, ``validation`` and ``stock`` on those that chose."""
    bound, x, exact = case.problem(MEASURED, 6)
    size, classes = int(np.prod(case.denoise.shape)), getattr(case.denoise.conditions.get("label"), "classes", 0)
    cond = rv.Cond(label=[i % classes for i in range(TRAJECTORIES)]) if classes else None
    rows = []
    for nfe in (5, 10):
        low, high = case.ends
        fit = rv.solve.calibrate(bound.denoise, nfe, cond=cond, start=2.0 * low, end=2.0 * high, progress=None)
        plans = (suited(probed(case.denoise), nfe, case.scale, size), (fit.solver, fit))
        usual, found = (errors(ours(bound, x, s, ended(case.ends, g), nfe), exact)[1] for s, g in plans)
        stocked = min(ratio for _, ratio in fit.tried)
        spent = {"evaluations": fit.evaluations, "tried": len(fit.tried)}
        rows.append(
            {"case": case.key, "nfe": nfe, "ratio": found / usual, "validation": fit.ratio, "stock": stocked} | spent
        )
        print(rows[-1], flush=True)
    return rows


def row(case: Case, nfe: int, name: str, out: Tensor, exact: Tensor) -> dict[str, Any]:
    """Errors, and how far the spread of the samples is from that of the flow's ends."""
    rmse, typical = errors(out, exact)
    spread = float(out.std() / exact.std())
    return {"case": case.key, "nfe": nfe, "name": name, "rmse": rmse, "typical": typical, "spread": spread}


def kept(name: str, make: Callable[[], Any], key: str) -> Any:
    """``make()``, or what ``results/name`` holds of it."""
    file = RESULTS / name
    stored = json.loads(file.read_text()) if file.is_file() else {}
    if key not in stored:
        stored[key] = make()
        write(name, stored)
    return stored[key]


def opened(path: str) -> Denoiser:
    """The model of a folder, or what a Python file calls ``denoise``."""
    return runpy.run_path(path)["denoise"] if path.endswith(".py") else rv.load(path)


def cases(name: str, denoise: Denoiser) -> list[Case]:
    return [Case(name, denoise, scale) for scale in SCALES[: 2 if denoise.conditions else 1]]


def stand(case: Case, folder: str = "zoo") -> list[dict[str, Any]]:
    """The rows of a case: those of peers that are there already or measured now, and ours."""
    found = kept(f"{folder}_scan.json", lambda: scan(case), case.key)
    peers = kept(f"{folder}.json", lambda: measure(case, found), case.key)
    rows = own(case) + [r for r in peers if r["name"] not in OURS]
    stored = json.loads((RESULTS / f"{folder}.json").read_text())
    write(f"{folder}.json", stored | {case.key: rows})
    return rows


def stands(all_cases: Iterable[Case], folder: str = "zoo") -> None:
    """Measure, and print where the default stands."""
    rows = {case.key: stand(case, folder) for case in all_cases}
    for name in OURS:
        print(f"{name}, typical error over the best peer's, at {sorted(NFE)} evaluations", table(rows, name), sep="\n")
        print("spread off by over a tenth where DPM-Solver++ 2M's is right:", spreads(rows, name) or "nowhere")


def ratios(
    rows: list[dict[str, Any]], nfe: int, name: str = "auto", metric: str = "typical"
) -> tuple[float, float, float]:
    """An error, over the best peer's, and over that of the common peer."""
    here = {r["name"]: r[metric] for r in rows if r["nfe"] == nfe}
    peers = {k: v for k, v in here.items() if k not in OURS and not math.isnan(v)}
    return here[name], here[name] / min(peers.values()), here[name] / min(v for k, v in peers.items() if COMMON in k)


def table(stored: dict[str, list[dict[str, Any]]], name: str = "auto", metric: str = "typical") -> str:
    """A line a case: ours over the best of all peers, by evaluations; and the geometric means, also over the common peer."""
    counts, lines, every = sorted(NFE), [], []
    for key, rows in stored.items():
        every.append([ratios(rows, n, name, metric)[1:] for n in counts])
        lines.append(f"| {key} | " + " | ".join(f"{r[0]:.2f}" for r in every[-1]) + " |")
    mean = np.exp(np.log(np.array(every)).mean(axis=0))
    lines.append("| geometric mean | " + " | ".join(f"{v:.2f}" for v in mean[:, 0]) + " |")
    lines.append(f"| over {COMMON} | " + " | ".join(f"{v:.2f}" for v in mean[:, 1]) + " |")
    return "\n".join(lines)


def spreads(stored: dict[str, list[dict[str, Any]]], name: str = "auto") -> list[str]:
    """Where the spread of ours is off by over a tenth and that of DPM-Solver++ 2M is not."""
    wrong = []
    for key, rows in stored.items():
        for n in NFE:
            here = {r["name"]: abs(r["spread"] - 1.0) for r in rows if r["nfe"] == n}
            if here[name] > 0.1 and here[f"{ROBUST}, logsnr"] <= 0.1:
                wrong.append(f"{key} at {n}")
    return wrong
