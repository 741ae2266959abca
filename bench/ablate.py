"""What pays in the demo's recipe? Each row changes one thing and trains for the same time, twice.

    python bench/ablate.py run                       # every row, two seeds, a minute of processor time each; goes on where it stopped
    python bench/ablate.py run "no prior" AdamW      # these rows
    python bench/ablate.py table                     # as results/ablate.md, for docs/guide/learning_speed.md

Rows train by the loop of learners.py, on one thread, with schedules that end with the time, and draw at guidance scale 2.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from learners import by_recipe, learn, named, warm_up
from panel import Panel
from reverie.align import SRA, Dispersive, WithAuxiliary
from reverie.core.files import write
from reverie.core.memory import keep_freed_memory
from reverie.core.task import Task
from reverie.diffusion.denoising import Denoising
from reverie.learn.ema import Decay
from reverie.nets import DiTConfig

RESULTS = Path(__file__).parent / "results" / "ablate.json"
SECONDS, SEEDS, SCALE, COUNT = 60.0, (0, 1), 2.0, 1000


@dataclass(frozen=True)
class Row:
    """A change: of keys of the recipe, of the task beyond what recipes say, or of the average of the weights."""

    keys: dict[str, Any]
    task: Callable[[Denoising], Task] | None = None
    decay: Decay | None = None


def meet(x0: Tensor, noise: Tensor) -> Tensor:
    """The noise that each picture of a batch meets by optimal transport (Tong et al. 2024, section 3.2.3)."""
    from scipy.optimize import linear_sum_assignment

    _, chosen = linear_sum_assignment(torch.cdist(x0.flatten(1), noise.flatten(1)).square().numpy())
    return noise[torch.from_numpy(chosen)]


def coupled(task: Denoising) -> Task:
    task.coupling = meet
    return task


def dispersed(task: Denoising) -> Task:
    return WithAuxiliary(task, Dispersive("down.0.0"))


def self_aligned(task: Denoising) -> Task:
    """A teacher that forgets in a tenth of the steps, where the paper's ten thousand would be all of the training."""
    width = task.denoise.net.config.width
    return WithAuxiliary(task, SRA(task.denoise, "down.1.1", "up.0.0", width, decay=0.99))


def forgetful(before: int, after: int) -> float:
    """No average: the last weights draw."""
    return 0.0


ROWS = {
    "the recipe": Row({}),
    "times uniform": Row({"task.times": "uniform"}),
    "times nearer to noise": Row({"task.times_mean": 0.5}),
    "times nearer to data": Row({"task.times_mean": -0.5}),
    "error of x0": Row({"task.loss_kind": "x0"}),
    "error of the noise": Row({"task.loss_kind": "eps"}),
    "predicts x0": Row({"task.kind": "x0"}),
    "predicts the noise, DDPM's path": Row({"task.kind": "eps", "task.schedule": "ddpm"}),
    "predicts v": Row({"task.kind": "v"}),
    "coupling by optimal transport": Row({}, coupled),
    "dispersive loss": Row({}, dispersed),
    "self-alignment (SRA)": Row({}, self_aligned),
    "batch 16": Row({"train.batch": 16}),
    "batch 64": Row({"train.batch": 64}),
    "AdamW": Row({"train.optimizer": "adamw", "train.lr": 0.002}),
    "no warm-up": Row({"train.warmup": 0}),
    "long warm-up": Row({"train.warmup": 4600}),
    "cosine decay": Row({"train.decay": "cosine"}),
    "no decay": Row({"train.decay": "constant"}),
    "no average": Row({}, None, forgetful),
    "wide average": Row({"train.ema_std": 0.25}),
    "patch 1": Row({"task.net.patch": 1, "task.net.width": 16, "task.net.multipliers": (1, 2), "task.net.attention": (2,)}),
    "patch 4": Row({"task.net.patch": 4, "task.net.width": 64, "task.net.multipliers": (1,), "task.net.attention": (1,)}),
    "DiT": Row({"task.net": DiTConfig(patch=4, width=64, depth=6, heads=2)}),
    "no prior": Row({"task.prior": None}),
    "augmentation of .12": Row({"task.augment": 0.12}),
    "labels dropped twice as often": Row({"task.drop": 0.2}),
}  # fmt: skip


def changed(record: Any, key: str, value: Any) -> Any:
    """A nested dataclass with the value of one key, ``section.key``, changed."""
    name, _, rest = key.partition(".")
    if not is_dataclass(record) or name not in {field.name for field in fields(record)}:
        raise KeyError(f"{type(record).__name__} has no {name}")
    return replace(record, **{name: changed(getattr(record, name), rest, value) if rest else value})  # pyright: ignore[reportArgumentType]


def measure(row: Row, seed: int, panel: Panel, seconds: float) -> dict[str, Any]:
    recipe = replace(named("mnist5k"), seed=seed)
    for key, value in row.keys.items():
        recipe = changed(recipe, key, value)
    warm_up(by_recipe(recipe))
    began = time.process_time()
    learner = by_recipe(recipe, row.decay, row.task)
    images = learn(learner, seconds, time.process_time, began, seed)
    labels = panel.labels(COUNT)
    return {"images": images, **panel.figures(learner.draw(COUNT, labels, SCALE, seed), labels)}


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The mean over the seeds of each row, and how far apart they are, as markdown."""
    lines = [
        "| change | seeds | images | accuracy | ratio | of the seeds | ratio outside | recall | recall outside |",
        "|---|---:|---:|---:|---:|---|---:|---:|---:|",
    ]
    for name in ROWS:
        found = list(rows.get(name, {}).values())
        if not found:
            continue
        inside, outside = ([list(_spaces(f))[k] for f in found] for k in (0, 1))
        each = ", ".join(f"{s['ratio']:.1f}" for s in inside)
        accuracy, recall, unknown = (
            f"{100 * _mean(some, key):.1f} %"
            for some, key in ((found, "accuracy"), (inside, "recall"), (outside, "recall"))
        )
        ratios = f"{_mean(inside, 'ratio'):.2f} | {each} | {_mean(outside, 'ratio'):.2f}"
        images = f"{_mean(found, 'images'):,.0f}"
        lines.append(f"| {name} | {len(found)} | {images} | {accuracy} | {ratios} | {recall} | {unknown} |")
    return "\n".join(lines)


def _spaces(figures: dict[str, Any]) -> list[dict[str, float]]:
    return [value for value in figures.values() if isinstance(value, dict)]


def _mean(found: list[dict[str, Any]], key: str) -> float:
    return sum(each[key] for each in found) / len(found)


def tables(kept: dict[str, dict[str, Any]]) -> str:
    return "\n\n".join(f"{seconds} of processor time\n\n{table(rows)}" for seconds, rows in kept.items()) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    running = verbs.add_parser("run")
    running.add_argument("rows", nargs="*", default=list(ROWS), metavar="ROW", help=f"of {', '.join(ROWS)}")
    running.add_argument("--seconds", type=float, default=SECONDS)
    running.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    verbs.add_parser("table")
    given = parser.parse_args()
    kept: dict[str, dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if given.verb == "run":
        torch.set_num_threads(1)
        keep_freed_memory()
        panel = Panel("mnist5k")
        for seed in given.seeds:
            for name in given.rows:
                rows = kept.setdefault(f"{given.seconds:g} s", {}).setdefault(name, {})
                if f"{seed}" not in rows:
                    rows[f"{seed}"] = measure(ROWS[name], seed, panel, given.seconds)
                    write(RESULTS, json.dumps(kept, indent=1) + "\n")
                    write(RESULTS.with_suffix(".md"), tables(kept))
                    print(f"{name}, seed {seed}: accuracy {rows[f'{seed}']['accuracy']:.3f}", flush=True)
    print(tables(kept))


if __name__ == "__main__":
    main()
