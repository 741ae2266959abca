"""Runs whose averaged weights are of another width, made after training: the work behind ``reverie ema``."""

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reverie.core.errors import InputError
from reverie.core.files import appearing_folder, write
from reverie.core.progress import track
from reverie.learn import posthoc
from reverie.learn.checkpoint import Checkpoints
from reverie.recipes.measuring import measure
from reverie.recipes.runs import Run

CURVE = "ema.json"
"""In a run, its quality against the width of the average."""
STDS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25)
"""Widths at which it is measured."""


def reaveraged(run: Run, std: float, out: Path) -> float:
    """A run that is the same but for its averaged weights, of width ``std``, which it does not train on with.

    Returns:
        The error of the profile, see :func:`reverie.learn.posthoc.combination`.

    Raises:
        InputError: when ``out`` is there, or as :func:`reverie.learn.posthoc.average`.
        RunError: when it cannot be written.
    """
    if out.exists():
        raise InputError(f"{out} is there already: give another --out, or remove it")
    checkpoint = run.checkpoint
    averaged, error = posthoc.average(run.folder, std, checkpoint.state["images"])
    ema = checkpoint.tensors("ema")
    if strange := sorted(set(averaged) - set(ema)):
        raise InputError(f"the snapshots of {run.folder} are of another network: its checkpoint has no {strange[0]}")
    ema |= {key: value.to(ema[key].dtype) for key, value in averaged.items()}
    state = {key: value for key, value in checkpoint.state.items() if key != "files"}
    with appearing_folder(out) as folder:
        for path in (*run.folder.glob("*.safetensors"), run.folder / "recipe.yaml", run.folder / "log.jsonl"):
            if path.exists():
                shutil.copyfile(path, folder / path.name)
        tensors = {"model": checkpoint.tensors("model"), "ema": ema}
        Checkpoints(folder / "checkpoints").save(
            state["step"], tensors, {**state, "ema_std": std}, checkpoint.metadata("ema")
        )
    return error


def curve(run: Run, stds: Sequence[float] = STDS, *, n: int = 500, seeds: Sequence[int] = (0,)) -> list[dict[str, Any]]:
    """Measure the run with averages of several widths; kept in the run as :data:`CURVE`, which its report shows.

    Returns:
        Of each width its ``std``, the ``error`` of its profile, and the ``figures`` of samples by the names of measures.
    """
    rows = []
    for std in track(stds, "measuring averages", len(stds), "widths"):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / run.folder.name
            error = reaveraged(run, std, folder)
            evaluation = measure(Run(folder, run.device, run.dtype), n=n, seeds=seeds)
        figures = {f.measure: f.value for f in evaluation.figures if f.of == "samples"}
        rows.append({"std": std, "error": error, "figures": figures})
    images = run.checkpoint.state["images"]
    write(run.path(CURVE), json.dumps({"images": images, "count": n, "seeds": list(seeds), "widths": rows}, indent=1))
    return rows
