"""One step beside many: the teacher at few and many steps, in 4 and 5 on grids that were calibrated for it too, and each method's student
at 1, 2, 4 and 8; the table of docs/distill/index.md.

python bench/distill.py TEACHER OUT [--methods dmd2 progressive] [--budget 3m] [--processes 1] [--n 1000] [--seeds 1]

Students are runs in OUT/METHOD, trained for so long where they are not; one that was interrupted goes on. Each row is written as it is
measured (bench/results/distill.json), and what is there of the same student is not measured again. METHOD may have settings, such as
``dmd2:gan=0,ratio=5``, and a time of its own, ``dmd2@20m``.
"""

import argparse
import json
import re
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import reverie as rv
from reverie.cli import distill
from reverie.core.files import write
from reverie.diffusion.teacher import FromTeacher
from reverie.learn.grid import to_bytes
from reverie.measure import frechet_distance, precision_recall
from reverie.measure.pictures import from_bytes
from reverie.recipes import measuring, outlook, sources, tasks
from reverie.recipes.runs import Run
from reverie.recipes.training import train
from reverie.solve.calibrate import TRAJECTORIES, calibrate
from reverie.solve.maps import MADE

RESULTS = Path(__file__).parent / "results" / "distill.json"
TEACHER = (1, 2, 4, 8, 12, 20)
CALIBRATED = (4, 5)
COLUMNS = ("accuracy", "frechet", "precision", "recall")


class Bench:
    def __init__(self, teacher: str, n: int, seeds: int, processes: int | None) -> None:
        self.teacher, self.n, self.seeds = Run(teacher), n, seeds
        self.share = [] if processes is None else ["--train.processes", str(processes)]
        recipe = self.teacher.recipe
        self.held_out = sources.load(recipe, "test")
        judge = measuring.judge_of(recipe.data.name, sources.load(recipe), None)
        assert judge is not None, "the data has no judge"
        self.judge, self.real = judge, judge.features(self.held_out.batch(range(len(self.held_out))).x)
        self.rows: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}

    @torch.no_grad()
    def measure(self, name: str, steps: int, generator: Any, facts: dict[str, Any]) -> None:
        """A row of the table, unless it is there."""
        key = f"{name}, {steps}" if self.seeds == 1 else f"{name}, {steps}, {self.seeds} seeds"
        about = {**facts, "n": self.n, "seeds": self.seeds, "teacher": self.teacher.recipe.name}
        if key in self.rows and self.rows[key]["about"] == about:
            return
        labels = torch.arange(self.n) % len(self.judge.classes)
        scores = []
        for seed in range(self.seeds):
            parts = [
                generator.sample(len(some), rv.Cond(label=labels[some]), seed=[(seed, int(i)) for i in some])
                for some in torch.arange(self.n).split(250)
            ]
            images = from_bytes(to_bytes(torch.cat(parts)))
            features = self.judge.features(images)
            right = (self.judge.head(features.relu()).argmax(1) == labels).double().mean()
            covered = precision_recall(self.real, features)
            scores.append([float(right), frechet_distance(features, self.real), *covered])
        means = torch.tensor(scores, dtype=torch.float64).mean(0).tolist()
        self.rows[key] = {"method": name, "steps": steps, "about": about, **dict(zip(COLUMNS, means, strict=True))}
        write(RESULTS, json.dumps(self.rows, indent=1) + "\n")
        print(key, {k: round(v, 4) for k, v in zip(COLUMNS, means, strict=True)}, flush=True)

    def of_teacher(self) -> None:
        facts = {"images": self.teacher.checkpoint.state["images"]}
        for steps in TEACHER:
            self.measure(
                "teacher", steps, self.teacher.generator(replace(self.teacher.recipe.usual, steps=steps)), facts
            )

    def of_calibrated(self) -> None:
        """The teacher by the default solver, on a grid that was fitted to it and kept in its run."""
        images = self.teacher.checkpoint.state["images"]
        for steps in CALIBRATED:
            sample = replace(self.teacher.recipe.usual, solver="auto", grid=None, steps=steps)
            path = self.teacher.path(f"calibrated-{steps}-{sample.scale:g}.json")
            if not path.exists():
                labels = rv.Cond(label=torch.arange(TRAJECTORIES) % len(self.judge.classes))
                calibrate(self.teacher.guided(sample.scale), steps, cond=labels).save(path)
            self.measure("teacher, calibrated", steps, self.teacher.generator(sample), {"images": images})

    def of_student(self, spelt: str, budget: str, out: Path) -> None:
        told, _, own = spelt.partition("@")
        method, _, settings = told.partition(":")
        words = [f"--{word}" for word in settings.split(",") if word]
        given = distill.parse([str(self.teacher.folder), "--method", method, *self.share, *words])
        begun = time.perf_counter()
        folder = out / re.sub(r"[:,@]", "-", spelt).replace("=", "")
        run, seen = train(given.recipe, folder, budget=outlook.seconds(own or budget))
        if seen < run.recipe.train.images:
            raise SystemExit(130)
        spent = run.path("seconds.json")
        if not spent.exists():
            write(spent, json.dumps(time.perf_counter() - begun))
        net = next(iter(run.generator().modules().values()))
        facts = {
            "images": seen,
            "seconds": round(json.loads(spent.read_text())),
            "parameters": sum(p.numel() for p in net.parameters()),
        }
        for steps in (1, 2, 4, 8):
            self.measure(spelt, steps, run.generator(replace(run.recipe.usual, steps=steps)), facts)


def table(rows: dict[str, Any]) -> str:
    """As markdown."""
    lines = [
        "| model | steps | seeds | accuracy | Fréchet | precision | recall | images | seconds |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows.values():
        fractions = {key: f"{100 * row[key]:.1f} %" for key in ("accuracy", "precision", "recall")}
        about = row["about"]
        lines.append(
            f"| {row['method']} | {row['steps']} | {about['seeds']} | {fractions['accuracy']} | {row['frechet']:.2f} | "
            f"{fractions['precision']} | {fractions['recall']} | {about['images']:,} | {about.get('seconds', '')} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("teacher")
    parser.add_argument("out", type=Path)
    every = [name for name in distill.methods() if "reverie.distill" in str(tasks.config(name).__module__)]
    parser.add_argument("--methods", nargs="*", default=[name for name in every if name != "guided"])
    parser.add_argument("--budget", default="3m")
    parser.add_argument("--processes", type=int)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=1)
    given = parser.parse_args()
    assert all(issubclass(tasks.config(re.split("[:@]", name)[0]), FromTeacher) for name in given.methods)
    warnings.filterwarnings("ignore", MADE)
    bench = Bench(given.teacher, given.n, given.seeds, given.processes)
    for spelt in given.methods:
        bench.of_student(spelt, given.budget, given.out)
    bench.of_teacher()
    bench.of_calibrated()
    print(table(bench.rows))


if __name__ == "__main__":
    main()
