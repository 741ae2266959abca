"""Several runs side by side on one self-contained page."""

from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from torch import Tensor

from reverie.core.condition import Cond
from reverie.core.files import write
from reverie.core.text import size
from reverie.data.pixels import sides
from reverie.families import GAN, interpolate
from reverie.learn.grid import to_bytes
from reverie.measure.figures import SUBJECTS, TITLES, percent
from reverie.recipes import serialisation
from reverie.recipes.comparing import Compared
from reverie.report.charts import Line, chart
from reverie.report.page import PIXELATED, tile
from reverie.report.pictures import pictures
from reverie.solve import Sampler, sample, slerp

MEASURES = ("accuracy", "frechet", "frechet_ratio", "kernel", "kernel_share", "precision", "recall")
ROWS = 3
"""Rows of samples of each run."""
LINES = 6
"""Runs that a chart of losses shows at most."""


def table(runs: Sequence[Compared]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: each run, then what the judge says of training pictures, blurred ones and noise."""
    measures = [m for m in MEASURES if any(c.evaluation.figure(m) for c in runs)]
    heads = [
        "",
        *(TITLES[m] for m in measures),
        "Copies",
        "Bits / dim",
        "Samples / s",
        "Parameters",
        "Training",
        "Memory",
    ]
    rows = []
    for c in runs:
        figures = [c.evaluation.figure(m) for m in measures]
        bits = "" if c.bits is None else f"{'≤ ' if c.bound else ''}{c.bits:.2f}"
        rows.append(
            [
                c.name,
                *("" if f is None else f.text for f in figures),
                percent(c.evaluation.memorisation["samples"].copies),
                bits,
                f"{c.rate:,.0f}" if c.rate >= 10 else f"{c.rate:.2g}",
                f"{c.parameters / 1e6:.2f} M",
                f"{c.seconds:,.0f} s",
                "" if c.memory is None else size(c.memory),
            ]
        )
    first = runs[0].evaluation
    for of in first.subjects[1:]:
        figures = [first.figure(m, of) for m in measures]
        copies = first.memorisation.get(of)
        told = "" if copies is None else percent(copies.copies)
        rows.append([SUBJECTS[of], *("" if f is None else f.text for f in figures), told, *[""] * 5])
    return heads, rows


def differences(runs: Sequence[Compared]) -> list[tuple[str, list[str]]]:
    """The keys in which the recipes of the runs differ, and the value of each; the task's own keys only where all have the same task."""
    recipes = [c.run.recipe for c in runs]
    keys: dict[str, list[str]] = {}
    for i, recipe in enumerate(recipes):
        for key, first, value in serialisation.difference(recipes[0], recipe):
            keys.setdefault(key, [_said(first)] * len(recipes))[i] = _said(value)
    alike = len({recipe.task.name for recipe in recipes}) == 1
    wanted = {
        key: row for key, row in keys.items() if key != "name" and (alike or key == "task" or key.startswith("train."))
    }
    return list(wanted.items())


def _said(value: Any) -> str:
    return "" if value is None else " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


@torch.no_grad()
def _between(c: Compared, columns: int) -> Tensor | None:
    """Pictures (N, C, H, W) between those of two seeds: of a GAN by its codes, of a diffusion model along the circle between two noises."""
    generator = c.run.generator()
    cond = Cond(label=0) if "label" in generator.conditions else None
    if isinstance(generator, GAN):
        return interpolate(generator, (0, 1), columns, cond)
    if not isinstance(generator, Sampler):
        return None
    denoise = generator.denoise
    ends = torch.randn(2, *denoise.shape, generator=torch.Generator().manual_seed(0)) * denoise.schedule.prior_std()
    x = torch.cat([slerp(ends[:1], ends[1:], i / (columns - 1)) for i in range(columns)])
    return sample(denoise, None, cond, generator.solver, generator.steps, generator.grid, x=x, progress="", scale=1.0)


def comparison(runs: Sequence[Compared], path: Path) -> Path:
    """Write the page and return its path.

    Args:
        runs: measured, on the same data.
        path: of the page.
    """
    shown = []
    for c in runs:
        drawn = pictures(c.run)
        columns, heads = drawn.columns, drawn.heads(c.run.recipe.data.classes or ())
        images = [tile(image, f"sample of {c.name}") for image in drawn.samples[: ROWS * columns]]
        between = _between(c, columns)
        along = [] if between is None else [tile(im, f"between two samples of {c.name}") for im in to_bytes(between)]
        said = {"name": c.name, "columns": columns, "heads": heads, "images": images, "between": along}
        shown.append({**said, "verdict": c.evaluation.verdict})
    heads, rows = table(runs)
    loader = PackageLoader("reverie.report", ".")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    data = runs[0].run.recipe.data
    page = environment.get_template("comparison.html.j2").render(
        title=f"{len(runs)} models of {Path(data.name).name}",
        how=runs[0].evaluation.how.partition(". ")[2],
        models=" ".join(quote(str(c.run.folder)) for c in runs),
        pixelated=max(sides(data.size)) <= PIXELATED,
        runs=len(runs),
        heads=heads,
        rows=rows,
        shown=shown,
        losses=[Markup(each) for each in _losses(runs)],
        names=[c.name for c in runs],
        differences=differences(runs),
    )
    write(path, page)
    return path


def _losses(runs: Sequence[Compared]) -> list[str]:
    """The held-out losses of the runs of one task, which alone can be compared, in one chart each."""
    charts = []
    for task in dict.fromkeys(c.run.recipe.task.name for c in runs):
        lines = []
        for c in (c for c in runs if c.run.recipe.task.name == task):
            entries = [(e["images"], e["validation"]["loss"]) for e in c.run.log if "loss" in e.get("validation", {})]
            if entries:
                seen, losses = zip(*entries, strict=True)
                lines.append(Line(c.name, seen, losses, f"line-{len(lines)}"))
        if lines:
            charts.append(
                chart(lines[:LINES], "pictures seen", "held-out loss", f"Held-out loss of the runs of {task}", log=True)
            )
    return [each for each in charts if each]
