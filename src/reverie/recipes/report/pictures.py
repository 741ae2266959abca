"""The pictures of a report, drawn once from the run's checkpoint and kept in ``samples/report/``."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser
from reverie.core.files import write
from reverie.core.progress import Progress
from reverie.learn import grid
from reverie.measure.pictures import cut, sheet
from reverie.recipes import building
from reverie.recipes.runs import Run
from reverie.solve import iterate, sample

FOLDER = "samples/report"
COLUMNS = 10
ROWS = 6
SCALES = (1.0, 1.5, 2.0, 3.0, 5.0)
MOMENTS = 8
FILMS = 2
VERSION = 2


@dataclass(frozen=True)
class Pictures:
    """8-bit pictures, (n, C, H, W) row by row.

    Attributes:
        samples: :data:`ROWS` rows; a class a column if there are classes.
        classes: index of each column's class; empty without classes.
        sweep: a row of one sample a column for each of ``scales``; None for a model that cannot be guided.
        film: for each of :data:`FILMS` samples a row of noisy states and a row of estimates of the clean picture.
        logsnr: of the film's columns, infinite at pure noise and for the finished picture.
        parameters: of the network.
    """

    samples: UInt8[Tensor, "n c h w"]
    classes: tuple[int, ...]
    sweep: UInt8[Tensor, "m c h w"] | None
    scales: tuple[float, ...]
    film: UInt8[Tensor, "k c h w"]
    logsnr: tuple[float, ...]
    parameters: int


def pictures(run: Run) -> Pictures:
    """The pictures of a run's checkpoint: those kept from an earlier report if they still fit, otherwise drawn now."""
    folder = run.path(FOLDER)
    kept = _kept(folder, _key(run))
    if kept is not None:
        return kept
    drawn = _draw(run)
    for name in ("samples", "sweep", "film"):
        images = getattr(drawn, name)
        if images is not None:
            grid.save(sheet(images, _columns(drawn, name)), run.path(FOLDER, f"{name}.png"))
    facts = {name: getattr(drawn, name) for name in ("classes", "scales", "logsnr", "parameters")}
    write(
        run.path(FOLDER, "pictures.json"),
        json.dumps({"key": _key(run), "size": list(drawn.samples.shape[2:]), **facts}),
    )
    return drawn


def _key(run: Run) -> dict[str, Any]:
    """What the pictures depend on."""
    return {
        "version": VERSION,
        "checkpoint": run.checkpoint.folder.name,
        "files": run.checkpoint.state.get("files"),
        "sample": asdict(run.recipe.sample),
    }


def _columns(drawn: Pictures, name: str) -> int:
    return MOMENTS if name == "film" else len(drawn.classes) or COLUMNS


def _kept(folder: Path, key: object) -> Pictures | None:
    try:
        facts = json.loads((folder / "pictures.json").read_text(encoding="utf-8"))
        if facts["key"] != key:
            return None
        size = tuple(facts["size"])
        return Pictures(
            samples=cut(folder / "samples.png", size),
            classes=tuple(facts["classes"]),
            sweep=cut(folder / "sweep.png", size) if facts["scales"] else None,
            scales=tuple(facts["scales"]),
            film=cut(folder / "film.png", size),
            logsnr=tuple(facts["logsnr"]),
            parameters=facts["parameters"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


@torch.no_grad()
def _draw(run: Run) -> Pictures:
    recipe, denoise = run.recipe, run.denoiser()
    how = building.sampling(recipe.sample)
    names = recipe.data.classes or ()
    guidable = bool(names) and recipe.denoising.drop > 0.0
    guided = building.guided(denoise, recipe, recipe.sample.scale if guidable else 1.0)
    classes = _spread(len(names), COLUMNS)
    columns = len(classes) or COLUMNS
    labels = torch.tensor(classes * ROWS) if classes else None
    scales = tuple(sorted({*SCALES, recipe.sample.scale})) if guidable else ()
    total = columns * (ROWS + len(scales)) + FILMS
    with Progress("drawing the report's pictures", total, "pictures") as bar:
        parts = []
        for row in range(ROWS):
            rows = slice(row * columns, (row + 1) * columns)
            addresses = [(recipe.seed, i) for i in range(rows.start, rows.stop)]
            cond = None if labels is None else Cond(label=labels[rows])
            parts.append(grid.to_bytes(sample(guided, columns, cond, seed=addresses, **how)))
            bar.advance(columns)
        sweep = []
        for scale in scales:
            cond = Cond(label=list(classes))
            sweep.append(
                grid.to_bytes(sample(building.guided(denoise, recipe, scale), columns, cond, seed=recipe.seed, **how))
            )
            bar.advance(columns)
        film, logsnr = _film(guided, classes, recipe.seed, how)
        bar.advance(FILMS)
    return Pictures(
        samples=torch.cat(parts),
        classes=classes,
        sweep=torch.cat(sweep) if sweep else None,
        scales=scales,
        film=film,
        logsnr=logsnr,
        parameters=sum(p.numel() for p in denoise.net.parameters()),
    )


def _film(denoise: Denoiser, classes: Sequence[int], seed: int, how: dict) -> tuple[Tensor, tuple[float, ...]]:
    """Noisy states and estimates at :data:`MOMENTS` − 1 moments, and the finished pictures last."""
    cond = Cond(label=[classes[i] for i in _spread(len(classes), FILMS + 1)[1:]]) if classes else None
    states, estimates, logsnr = [], [], []
    step = None
    for step in iterate(denoise, FILMS, cond, seed=seed, **how):
        at = step.estimate.point
        size = (float(at.alpha) ** 2 + float(at.sigma) ** 2) ** 0.5
        states.append(grid.to_bytes(denoise.space.decode(step.estimate.x_t / size)))
        estimates.append(grid.to_bytes(denoise.space.decode(step.estimate.x0)))
        logsnr.append(2.0 * float(at.lam))
    assert step is not None
    final = grid.to_bytes(denoise.space.decode(step.x))
    chosen = [round(i * (len(states) - 1) / (MOMENTS - 2)) for i in range(MOMENTS - 1)]
    rows = []
    for i in range(FILMS):
        rows += [states[m][i] for m in chosen] + [final[i]] + [estimates[m][i] for m in chosen] + [final[i]]
    return torch.stack(rows), (*(logsnr[m] for m in chosen), math.inf)


def _spread(n: int, most: int) -> tuple[int, ...]:
    """At most ``most`` of 0 … n − 1, evenly."""
    return tuple(range(n)) if n <= most else tuple(round(i * (n - 1) / (most - 1)) for i in range(most))
