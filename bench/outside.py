"""Where the default stands on a network: all peers on few noises, the best of them on more, and ours beside them.

Everybody starts and ends at the same λ. What has been measured is kept in ``results``, and a run goes on where it stopped.
"""

import json
import math
import runpy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

import reverie as rv
from peers import configurations
from reverie.core.denoiser import Denoiser
from reverie.solve.grids import logistic
from reverie.solve.multistep import Multistep
from solvers import CACHE, RESULTS, Trained, ended, errors, ours, peer, peer_grids, write

NFE = (10, 5, 20, 40)
SCALES = (1.0, 2.5)
SCANNED, MEASURED, BEST = 8, 32, 8
"""Noises for all peers, noises for the best, and how many are those."""
NEAR = 2.5
"""What is further than so many times from the best at ten evaluations is not tried at other numbers."""


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
    return ours(bound, x, Multistep(2, corrector=1.0), ended(ends, logistic(0.0, 2.0, 2.0)), steps)


def scan(case: Case) -> dict[str, list[float]]:
    """The errors of every peer on every grid, by ``evaluations|peer|grid``; at others than 10 of those that are near the best there."""
    bound, x, exact = case.problem(SCANNED, 5)
    found: dict[str, list[float]] = {}
    for nfe in NFE:
        ten = {k.split("|", 1)[1]: v for k, v in found.items() if k.startswith("10|")}
        best = np.nanmin(list(ten.values()), axis=0) if ten else None
        for name, _, steps in configurations():
            for grid in peer_grids(bound.schedule, case.ends, steps(nfe)):
                if best is None or (np.array(ten[f"{name}|{grid}"]) < NEAR * best).any():
                    found[f"{nfe}|{name}|{grid}"] = errors(peer(name, grid, case.ends, bound, x, nfe), exact)
    return found


def best(found: dict[str, list[float]], nfe: int) -> list[str]:
    """``peer|grid`` of the :data:`BEST`, half by each measure."""
    here = {k.split("|", 1)[1]: v for k, v in found.items() if k.startswith(f"{nfe}|")}
    rank = [sorted(here, key=lambda k, i=i: (math.isnan(here[k][i]), here[k][i])) for i in (0, 1)]
    return list(dict.fromkeys(k for pair in zip(*rank, strict=True) for k in pair))[:BEST]


def measure(case: Case, found: dict[str, list[float]], common: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Rows of the best peers of the scan and of ``common`` (``evaluations|peer|grid``), on other noises."""
    bound, x, exact = case.problem(MEASURED, 6)
    rows = []
    for nfe in NFE:
        others = [k.split("|", 1)[1] for k in common if k.startswith(f"{nfe}|")]
        for each in dict.fromkeys([*best(found, nfe), *others]):
            name, grid = each.split("|")
            rows.append(row(case, nfe, f"{name}, {grid}", peer(name, grid, case.ends, bound, x, nfe), exact))
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
