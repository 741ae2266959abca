"""Which guidance scale do figures favour? Samples of one run at several, judged by the data's judge and by features from outside.

    python bench/guidance_scale.py runs/demo           # about a minute of a core a scale; goes on where it stopped
    python bench/guidance_scale.py runs/demo --table

The same noise at every scale. The best scale is that of the least Fréchet ratio; an outside judge that puts it elsewhere, or sees no more
than noise between neighbours, is a reason to leave a recipe as it is.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import reverie as rv
from panel import Panel
from reverie.core.files import write
from reverie.core.memory import keep_freed_memory
from reverie.recipes.runs import Run

RESULTS = Path(__file__).parent / "results" / "guidance_scale.json"
SCALES = (1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 2.75, 3.0)
COUNT = 1000


@torch.inference_mode()
def at_scales(run: Run, panel: Panel, scales: Sequence[float], seed: int, count: int = COUNT) -> dict[str, Any]:
    """The figures of samples of a run at each guidance scale."""
    labels, found = panel.labels(count), {}
    for scale in scales:
        generator = run.generator(replace(run.recipe.usual, scale=scale))
        addresses = [(seed, i) for i in range(count)]
        images = generator.sample(count, rv.Cond(label=labels), seed=addresses, batch_size=250)
        found[f"{scale:g}"] = panel.figures(images, labels)
    return found


def table(rows: dict[str, dict[str, Any]]) -> str:
    """As markdown."""
    some = next(iter(rows.values()))
    names = [name for name, value in some.items() if isinstance(value, dict)]
    lines = [
        "| scale | accuracy | " + " | ".join(f"ratio, {name} | kernel | recall" for name in names) + " | copies |",
        "|---:|---:|" + "---:|" * (3 * len(names) + 1),
    ]
    for scale, found in sorted(rows.items(), key=lambda item: float(item[0])):
        each = (found[name] for name in names)
        figures = " | ".join(f"{s['ratio']:.2f} | {s['kernel']:.3f} | {100 * s['recall']:.0f} %" for s in each)
        lines.append(f"| {scale} | {100 * found['accuracy']:.1f} % | {figures} | {100 * found['copies']:.1f} % |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--scales", type=float, nargs="+", default=SCALES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    kept: dict[str, dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    run = Run(given.run)
    rows = kept.setdefault(f"{run.recipe.name}, {run.recipe.train.images:,} images, seed {given.seed}", {})
    if not given.table:
        torch.set_num_threads(1)
        keep_freed_memory()
        panel = Panel(run.recipe.data.name)
        for scale in given.scales:
            if f"{scale:g}" not in rows:
                rows.update(at_scales(run, panel, [scale], given.seed))
                write(RESULTS, json.dumps(kept, indent=1) + "\n")
                write(
                    RESULTS.with_suffix(".md"),
                    "\n\n".join(f"{name}\n\n{table(found)}" for name, found in kept.items()) + "\n",
                )
                print(f"scale {scale:g}: done", flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
