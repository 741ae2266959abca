"""Error at equal cost: our default against every peer, each peer in its best configuration. See ``bench/README.md``.

python bench/solvers.py scan      # all configurations of the peers on few noises: which may be best
python bench/solvers.py final     # the best of them and ours, fresh noises; writes results/solvers.json
python bench/solvers.py again     # our default alone, beside the peers already measured
python bench/solvers.py plot      # error against evaluations for our solvers; writes the figure of the docs
python bench/solvers.py trained RUN   # a trained model in place of an exact one; writes results/trained.json
python bench/solvers.py networks RUN ...   # the default for trained models of several sizes of picture; writes results/networks.json
python bench/solvers.py zoo       # the default and the peers on the networks of bench/zoo.py, resumably; writes results/zoo.json
python bench/solvers.py learned   # calibrations of the networks held out, over the default; writes results/zoo_calibrated.json
python bench/solvers.py stochastic # solvers with fresh noise by Fréchet distance, on three of them; writes results/stochastic.json
python bench/solvers.py outside FOLDER   # the same on a network of yours: what rv.load opens, or a Python file that gives a `denoise`
"""

import json
import logging
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import beta
from torch import Tensor

import reverie as rv
from mixtures import DATA, ENDS, Exact, mixture, path, problem, reference
from peers import configurations
from reverie.core.estimate import Estimate
from reverie.core.schedules import VE, Flow, Schedule
from reverie.solve.auto import default
from reverie.solve.grids import Grid, logistic
from reverie.solve.plan import Solver, plain

RESULTS = Path(__file__).parent / "results"
CACHE = RESULTS / "references"
NFE = (5, 10, 20, 40, 80)
METRICS = ("rmse", "geometric")


def errors(x: Tensor, exact: Tensor) -> list[float]:
    """Root mean square over everything, and the geometric mean over samples of each one's root mean square."""
    each = (x - exact).flatten(1).norm(dim=1) / exact[0].numel() ** 0.5
    return [each.square().mean().sqrt().item(), (each + 1e-12).log().mean().exp().item()]


def peer_grids(schedule: Schedule, ends: tuple[float, float], steps: int) -> dict[str, np.ndarray]:
    """ρ of the grids that the peers offer, between the ends (λ) that everybody has."""
    low, high = ends
    grids = {
        "logsnr": np.exp(-np.linspace(low, high, steps + 1)),
        "karras": np.linspace(np.exp(-low / 7), np.exp(-high / 7), steps + 1) ** 7,
    }
    if not isinstance(schedule, VE):  # there uniform time is uniform λ
        first, last = schedule.at(low).t, schedule.at(high).t
        t = np.linspace(first, last, steps + 1)
        times = {"time": t, "beta": last + (first - last) * beta.ppf(np.linspace(1.0, 0.0, steps + 1), 0.6, 0.6)}
        if isinstance(schedule, Flow):
            shifted = 3.0 * t / (1.0 + 2.0 * t)
            times["shift 3"] = last + (first - last) * (shifted - shifted[-1]) / (shifted[0] - shifted[-1])
        for name, each in times.items():
            grids[name] = np.array([schedule.point(float(v)).rho for v in each])
    for grid in grids.values():
        grid[0], grid[-1] = np.exp(-low), np.exp(-high)
    return grids


def ours(denoise: Any, x: Tensor, solver: Solver, grid: Grid, steps: int) -> Tensor:
    """A run of our own solver between the grid's ends."""
    plan = solver.plan(denoise.schedule, plain(grid(denoise.schedule, steps)))
    state = solver.init(x, plan)
    for step in plan.steps:
        state = solver.step(denoise, state, step.row, ())
    return solver.result(state)


def ended(ends: tuple[float, float], grid: Any) -> Any:
    """The grid between two λ."""
    return replace(grid, start=2.0 * ends[0], end=2.0 * ends[1])


def peer(name: str, grid: str, ends: tuple[float, float], denoise: Any, x: Tensor, nfe: int) -> Tensor:
    """A run of a peer by its name in :func:`configurations`."""
    _, run, steps = next(c for c in configurations() if c[0] == name)
    (low, high), schedule = ends, denoise.schedule
    z = run(denoise.x0, x / schedule.at(low).alpha, peer_grids(schedule, ends, steps(nfe))[grid])
    return z * schedule.at(high).alpha


def scan(noises: int = 48) -> None:
    """Every configuration on the VP problems; on the other paths those within 2.5 times the best there."""
    found: dict[str, list[float]] = {}
    for data in DATA:
        for on in ENDS:
            denoise, x, exact = problem(data, on, noises, 1, CACHE)
            for nfe in NFE:
                first = {k: v for k, v in found.items() if k.startswith(f"{data}|vp|{nfe}|")}
                best = np.min(list(first.values()), axis=0) if first else None
                for name, _, steps in configurations():
                    near = [v for k, v in first.items() if k.split("|")[3] == name]
                    if on != "vp" and best is not None and not any((np.array(v) < 2.5 * best).any() for v in near):
                        continue
                    for grid in peer_grids(path(on), ENDS[on], steps(nfe)):
                        found[f"{data}|{on}|{nfe}|{name}|{grid}"] = errors(
                            peer(name, grid, ENDS[on], denoise, x, nfe), exact
                        )
            write("scan.json", found)
            print(data, on, "scanned", flush=True)


def final(noises: int = 1024, seed: int = 2, top: int = 2) -> None:
    """The best ``top`` peers of the scan by each measure, and ours, on fresh noises."""
    scanned = json.loads((RESULTS / "scan.json").read_text())
    rows: list[dict[str, Any]] = []
    for data in DATA:
        for on in ENDS:
            denoise, x, exact = problem(data, on, noises, seed, CACHE)
            for nfe in NFE:
                here = {k: v for k, v in scanned.items() if k.startswith(f"{data}|{on}|{nfe}|")}
                chosen = {k for i in (0, 1) for k in sorted(here, key=lambda k, i=i: here[k][i])[:top]}
                solver, grid = default(nfe)
                runs = {"reverie default": ours(denoise, x, solver, ended(ENDS[on], grid), nfe)}
                for key in chosen:
                    name, where = key.split("|")[3:]
                    runs[f"{name}, {where}"] = peer(name, where, ENDS[on], denoise, x, nfe)
                for name, out in runs.items():
                    measured = dict(zip(METRICS, errors(out, exact), strict=True))
                    rows.append({"data": data, "path": on, "nfe": nfe, "name": name, **measured})
            write("solvers.json", {"noises": noises, "summary": summary(rows), "rows": rows})
            print(data, on, "done", flush=True)
    print(json.dumps(summary(rows), indent=1))


def again() -> None:
    """Our default once more beside the peers of :func:`final`, on the same noises: after a change of the default alone."""
    stored = json.loads((RESULTS / "solvers.json").read_text())
    for row in stored["rows"]:
        if row["name"] == "reverie default":
            denoise, x, exact = problem(row["data"], row["path"], stored["noises"], 2, CACHE)
            solver, grid = default(row["nfe"])
            out = ours(denoise, x, solver, ended(ENDS[row["path"]], grid), row["nfe"])
            row |= dict(zip(METRICS, errors(out, exact), strict=True))
    stored["summary"] = summary(stored["rows"])
    write("solvers.json", stored)
    print(json.dumps(stored["summary"], indent=1))


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Ours over the best peer, each measure and problem with its own best: geometric mean and worst over problems."""
    table = {}
    for nfe in NFE:
        ratios: dict[str, dict[str, float]] = {m: {} for m in METRICS}
        for data in DATA:
            for on in ENDS:
                here = [r for r in rows if (r["data"], r["path"], r["nfe"]) == (data, on, nfe)]
                for m in METRICS if here else ():
                    own = next(r[m] for r in here if r["name"] == "reverie default")
                    ratios[m][f"{data} {on}"] = own / min(r[m] for r in here if r["name"] != "reverie default")
        table[str(nfe)] = {
            m: {"mean": float(np.exp(np.mean(np.log(list(r.values()))))), "worst": max(r.values()), "problems": r}
            for m, r in ratios.items()
            if r
        }
    return table


def guided(noises: int = 200) -> None:
    """The default under guidance on ten classes of digits, beside the same choice made without knowing the scale."""
    low, high = ENDS["vp"]
    x = torch.randn(noises, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    rows = []
    for scale in (2.0, 4.0, 8.0):
        denoise = Exact(mixture("classes"), path("vp"), torch.arange(noises) % 10, scale)
        start = x * denoise.schedule.at(low).sigma
        exact = reference(denoise, start, low, high)
        for nfe in (5, 10, 20, 40):
            for name, (solver, grid) in {"default": default(nfe, scale), "scale unknown": default(nfe)}.items():
                measured = dict(
                    zip(METRICS, errors(ours(denoise, start, solver, ended(ENDS["vp"], grid), nfe), exact), strict=True)
                )
                rows.append({"scale": scale, "nfe": nfe, "name": name, **measured})
                print(rows[-1], flush=True)
    write("guided.json", rows)


def calibrated() -> None:
    """Calibrated grids for ten evaluations on held-out noise, relative to the default."""
    low, high = ENDS["vp"]
    rows = []
    for data in DATA:
        denoise, x, exact = problem(data, "vp", 1024, 2, CACHE)
        solver, grid = default(10)
        usual = errors(ours(denoise, x, solver, ended(ENDS["vp"], grid), 10), exact)
        for seed in range(3):
            fit = rv.solve.calibrate(denoise, 10, start=2.0 * low, end=2.0 * high, seed=seed, progress=None)
            own = errors(ours(denoise, x, fit.solver, fit, 10), exact)
            ratios = {m: a / b for m, a, b in zip(METRICS, own, usual, strict=True)}
            rows.append({"data": data, "seed": seed, "evaluations": fit.evaluations, **ratios})
            print(rows[-1], flush=True)
    write("calibrated.json", rows)


PEERS_TRAINED = (
    ("diffusers DPMSolverMultistep solver_order=2 solver_type=midpoint lower_order_final=True", "time"),
    ("diffusers UniPCMultistep solver_order=3 solver_type=bh2 lower_order_final=True", "beta"),
    ("diffusers IPNDM", "beta"),
    ("azula vABSampler order=3", "beta"),
)
GUIDED_BELOW = 2.0
"""logsnr above which the trained model is not guided, as in its recipe."""


class Trained:
    """A trained model and its conditions, in the form that the peers take."""

    def __init__(self, denoise: Any, cond: Any) -> None:
        self.denoise, self.cond, self.schedule = denoise, cond, denoise.schedule

    def __call__(self, x: Tensor, t: Any) -> Estimate:
        return self.denoise(x, t, self.cond)

    def x0(self, z: Tensor, rho: float) -> Tensor:
        point = self.schedule.at(-float(np.log(rho)))
        return self(z * point.alpha, point).x0


def ends_of_flow(guided: Trained, plain: Trained, x: Tensor) -> Tensor:
    """Where the flow ends, by fine steps of low order; a node lies where guidance ends, as its jump there costs every solver its order."""
    (low, high), middle, solver = ENDS["flow"], 0.5 * GUIDED_BELOW, rv.solve.Multistep(3, corrector=1.0)
    x = ours(guided, x, solver, logistic(0.3, 2.0, 2.0, start=2.0 * low, end=2.0 * middle), 60)
    return ours(plain, x, solver, logistic(0.3, 2.0, 2.0, start=2.0 * middle, end=2.0 * high), 50)


def trained(run: str, noises: int = 256, seed: int = 5) -> None:
    """Ours, the peers that do well on a straight path, and a calibrated grid, with and without guidance."""
    low, high = ENDS["flow"]
    ends: dict[str, Any] = {"start": 2.0 * low, "end": 2.0 * high}
    rows: list[dict[str, Any]] = []
    base = rv.load(run)
    cond = rv.Cond(label=[i % 10 for i in range(noises)])
    x = torch.randn(noises, *base.shape, generator=torch.Generator().manual_seed(seed)) * base.schedule.at(low).sigma
    for scale in (1.0, 2.75):
        model = base if scale == 1.0 else rv.guide.cfg(base, scale, (-np.inf, GUIDED_BELOW))
        bound = Trained(model, cond)
        exact = ends_of_flow(bound, Trained(base, cond), x)

        def note(name: str, nfe: int, out: Tensor, exact: Tensor = exact, scale: float = scale) -> dict[str, Any]:
            measured = dict(zip(METRICS, errors(out, exact), strict=True))
            rows.append({"scale": scale, "nfe": nfe, "name": name, **measured})
            print(rows[-1], flush=True)
            write("trained.json", {"noises": noises, "rows": rows})
            return rows[-1]

        for nfe in (5, 10, 16, 20, 40):
            solver, grid = default(nfe, scale, int(np.prod(base.shape)))
            note("reverie default", nfe, ours(bound, x, solver, replace(grid, **ends), nfe))
            for name, where in PEERS_TRAINED if nfe in (5, 10, 20) else ():
                note(f"{name}, {where}", nfe, peer(name, where, ENDS["flow"], bound, x, nfe))
        begin = time.perf_counter()
        fit = rv.solve.calibrate(model, 10, cond=rv.Cond(label=[i % 10 for i in range(32)]), **ends, progress=None)
        spent = time.perf_counter() - begin
        row = note("reverie calibrated", 10, ours(bound, x, fit.solver, fit, 10))
        row |= {"seconds": spent, "evaluations": fit.evaluations, "validation": fit.ratio}
    write("trained.json", {"noises": noises, "rows": rows})


def networks(*runs: str) -> None:
    """The default beside the same choice made without knowing how large the pictures are, and 2M on a uniform grid in time."""
    (low, high), rows = ENDS["flow"], []
    ends: dict[str, Any] = {"start": 2.0 * low, "end": 2.0 * high}
    for run in runs:
        base = rv.load(run)
        size = int(np.prod(base.shape))
        noises = 48 if size < 1000 else 24
        model = Trained(base, rv.Cond(label=[i % 10 for i in range(noises)]) if base.conditions else None)
        x = torch.randn(noises, *base.shape, generator=torch.Generator().manual_seed(6)) * model.schedule.at(low).sigma
        fine = ours(model, x, rv.solve.Multistep(3, corrector=1.0), logistic(0.0, 2.0, 2.0, **ends), 150)
        for nfe in (5, 7, 10, 14, 20, 30):
            chosen: dict[str, tuple[Solver, Any]] = {
                "default": default(nfe, dimensions=size),
                "size unknown": default(nfe),
                "order 3": (rv.solve.Multistep(3, corrector=1.0, final_order=2), logistic(0.0, 1.2, 2.4)),
                "dpmpp2": (rv.solve.DPMpp(2), rv.grids.time()),
            }
            row: dict[str, Any] = {"run": Path(run).name, "shape": base.shape, "nfe": nfe}
            for name, (solver, grid) in chosen.items():
                row[name] = errors(ours(model, x, solver, replace(grid, **ends), nfe), fine)
            rows.append(row)
            print(row, flush=True)
            write("networks.json", rows)


def zoo() -> None:
    """The fitting half and the half that is held out, each with its table."""
    from outside import cases, stands
    from zoo import FITTING, HELD_OUT, denoiser

    for title, names in (("held out", HELD_OUT), ("fitting", FITTING)):
        print(title)
        stands(case for name in names for case in cases(name, denoiser(name)))


def learned() -> None:
    """Calibrations of the networks that are held out, at five and ten evaluations, over the default: geometric means."""
    from outside import calibrated, cases, kept
    from zoo import HELD_OUT, denoiser

    rows = [
        row
        for name in HELD_OUT
        for case in cases(name, denoiser(name))
        for row in kept("zoo_calibrated.json", lambda case=case: calibrated(case), case.key)
    ]
    for nfe in (5, 10):
        for guided in (False, True):
            ratios = [r["ratio"] for r in rows if r["nfe"] == nfe and r["case"].endswith(" 1") != guided]
            print(nfe, "guided" if guided else "unguided", f"{np.exp(np.mean(np.log(ratios))):.2f}")


def stochastic(*names: str) -> None:
    """Ours, SDE-DPM-Solver++ of diffusers and EDM's churn, by Fréchet distance; what has been measured is kept."""
    from outside import kept
    from stochastic import NETWORKS, rows, table

    print(table([row for name in names or NETWORKS for row in kept("stochastic.json", lambda n=name: rows(n), name)]))


def outside(folder: str) -> None:
    """Where the default stands on a user's network, guided too if it knows classes."""
    from outside import cases, opened, stands

    stands(cases(Path(folder).resolve().stem, opened(folder)), "outside")


def plot() -> None:
    """Error against evaluations on the digits mixture (VP), every solver on the grid that suits it."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    low, high = ENDS["vp"]
    denoise, x, exact = problem("digits", "vp", 256, 3, CACHE)
    solvers = {name: rv.solve.named(name) for name in ("ddim", "heun", "dpmpp2", "dpmpp3", "deis3", "unipc3")}
    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    counts = (5, 7, 10, 14, 20, 28, 40, 56, 80)
    for name, solver in solvers.items():
        steps = [n // 2 if name == "heun" else n for n in counts]
        curve = [errors(ours(denoise, x, solver, rv.grids.logsnr(2 * low, 2 * high), n), exact)[1] for n in steps]
        axes.loglog(counts, curve, label=name, marker=".", linewidth=1)
    curve = [errors(ours(denoise, x, default(n)[0], ended(ENDS["vp"], default(n)[1]), n), exact)[1] for n in counts]
    axes.loglog(counts, curve, label="auto", color="black", marker="o", linewidth=2)
    axes.set(xlabel="network evaluations", ylabel="error, geometric mean over samples", xticks=NFE, xticklabels=NFE)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    out = Path(__file__).parents[1] / "docs" / "_static" / "error_against_evaluations.svg"
    out.parent.mkdir(exist_ok=True)
    figure.savefig(out)


def write(name: str, content: Any) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / name).write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    logging.disable(logging.WARNING)
    phases = {
        "scan": scan,
        "final": final,
        "again": again,
        "guided": guided,
        "calibrated": calibrated,
        "plot": plot,
        "trained": trained,
        "networks": networks,
        "zoo": zoo,
        "learned": learned,
        "stochastic": stochastic,
        "outside": outside,
    }
    phases[sys.argv[1]](*(int(a) if a.isdigit() else a for a in sys.argv[2:]))
