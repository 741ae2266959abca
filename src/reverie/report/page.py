"""What the report says: a run's files turned into the values that the template shows."""

import base64
import io
import json
import math
import platform
import statistics
from collections.abc import Sequence
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from shlex import quote
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image
from torch import Tensor

from reverie.core.files import write
from reverie.data.pixels import sides
from reverie.learn.grid import to_picture
from reverie.measure.captions import FILE as CAPTIONS
from reverie.measure.captions import CaptionScores
from reverie.measure.figures import SUBJECTS, TITLES, Evaluation, Figure, Outliers, percent
from reverie.measure.pictures import cut
from reverie.read.probes.grid import Probed
from reverie.read.probes.heatmap import heatmap
from reverie.recipes import serialisation
from reverie.recipes.averaging import CURVE
from reverie.recipes.measuring import CLOSEST, EVALUATION
from reverie.recipes.runs import Run
from reverie.report.charts import Line, chart, smooth, steps
from reverie.report.pictures import FILMS, MOMENTS, Pictures, pictures

LARGEST = 128
"""Longest side in pixels at which a picture goes into the page."""
PIXELATED = 64
"""Pictures up to this side are enlarged with hard pixels, as they are."""
SHOWN_VALIDATIONS = 4


def report(run: Run) -> Path:
    """Write ``report.html`` of a run, which needs no other file and no network, and return its path.

    Pictures are drawn from the checkpoint once and kept; measures are those of ``evaluation.json``, if there is one.

    Raises:
        RunError: when the run has no checkpoint, or the file cannot be written.
    """
    drawn = pictures(run)
    measured = run.folder / EVALUATION
    evaluations = Evaluation.load_all(measured) if measured.exists() else []
    evaluation = next(iter(evaluations), None)
    loader = PackageLoader("reverie.report", ".")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("report.html.j2").render(
        title=run.recipe.name or run.folder.name,
        folder=quote(str(run.folder)),
        **_headline(run, drawn, evaluation),
        **_galleries(run, drawn),
        **_curves(run),
        **_averages(run),
        **_likelihood(run, drawn),
        **_measures(run, evaluation),
        **_kept(evaluations),
        outliers=Outliers.load_all(measured) if measured.exists() else [],
        captioned=CaptionScores.load_all(run.folder / CAPTIONS),
        **_reading(run),
        recipe=serialisation.dump(run.recipe),
        environment=_environment(run),
    )
    path = run.path("report.html")
    write(path, page)
    return path


def _headline(run: Run, drawn: Pictures, evaluation: Evaluation | None) -> dict[str, Any]:
    recipe, state = run.recipe, run.checkpoint.state
    data, model = recipe.data, serialisation.describe(recipe.task)
    colour = "grey" if data.channels == 1 else "colour"
    classes = f" in {len(data.classes)} classes" if data.classes else ""
    numbers = []
    if evaluation is not None:
        numbers += [_number(figure, evaluation) for figure in evaluation.headline]
        copies = evaluation.memorisation["samples"]
        numbers.append(
            (
                percent(copies.copies),
                f"copies of training pictures (held-out pictures: {percent(copies.held_out_copies)})",
            )
        )
    numbers.append((_duration(state["seconds"]), f"of training, {state['images']:,} pictures seen"))
    return {
        "lead": f"{model} with {_count(drawn.parameters)} parameters, trained on {Path(data.name).name}: "
        f"{colour} pictures of {' × '.join(map(str, sides(data.size)))} pixels{classes}.",
        "numbers": numbers,
        "unfinished": None
        if state["images"] >= recipe.train.images
        else f"{state['images']:,} of {recipe.train.images:,}",
    }


def _number(figure: Figure, evaluation: Evaluation) -> tuple[str, str]:
    """A figure of the headline, and what it is."""
    if figure.measure == "accuracy":
        real = _text(evaluation, "accuracy", "training")
        return figure.text, f"of samples show the class asked for (training pictures: {real})"
    if figure.measure == "frechet_ratio":
        return f"{figure.text}×", "the Fréchet distance of real training pictures to held-out ones"
    return figure.text, "of the kernel distance of noise to held-out pictures (0 is as good as real)"


def _galleries(run: Run, drawn: Pictures) -> dict[str, Any]:
    drawn_with, columns = run.recipe.usual, drawn.columns
    heads = drawn.heads(run.recipe.data.classes or ())
    labels = [f"class {head}" if drawn.classes else f"“{head}”" for head in heads] or ["unconditional"] * columns
    samples = [tile(image, f"sample, {labels[i % columns]}") for i, image in enumerate(drawn.samples)]
    maps = (
        [] if drawn.maps is None else [tile(image, "the map below which samples are told it") for image in drawn.maps]
    )
    sweep = []
    if drawn.sweep is not None:
        for row, name in enumerate(drawn.scales):
            images = drawn.sweep[row * columns : (row + 1) * columns]
            tiles = [tile(im, f"{label}, {drawn.sweep_title} {name}") for im, label in zip(images, labels, strict=True)]
            sweep.append((name, tiles))
    film, rows = [], 0 if drawn.film is None else len(drawn.film) // (MOMENTS * FILMS)
    for i in range(rows * FILMS):
        assert drawn.film is not None
        what = ("state", "what the model expects")[i % rows]
        images = drawn.film[i * MOMENTS : (i + 1) * MOMENTS]
        film.append([tile(image, f"{what}{_at(at)}") for image, at in zip(images, drawn.logsnr, strict=True)])
    return {
        "pixelated": max(sides(run.recipe.data.size)) <= PIXELATED,
        "heads": heads,
        "a_column": "A class a column." if drawn.classes else "Above each column the text that is asked for.",
        "long_heads": max(map(len, heads), default=0) > 3,
        "columns": columns,
        "samples": samples,
        "maps": maps,
        "preview": None if samples else _preview(run),
        "how_drawn": ", ".join(
            f"{f.name} {value}" for f in fields(drawn_with) if (value := getattr(drawn_with, f.name)) is not None
        ),
        "sweep": sweep,
        "sweep_title": drawn.sweep_title,
        "sweep_text": drawn.sweep_text,
        "film": film,
        "film_rows": rows,
        "moments": [_logsnr(at) for at in drawn.logsnr if at is not None],
    }


def _preview(run: Run) -> dict[str, str] | None:
    """What training has shown last, of a model that draws nothing by itself."""
    shown = sorted((run.folder / "samples").glob("step-*.png"))
    if not shown:
        return None
    src = f"data:image/png;base64,{base64.b64encode(shown[-1].read_bytes()).decode()}"
    return {"src": src, "alt": "what training showed last"}


def _likelihood(run: Run, drawn: Pictures) -> dict[str, Any]:
    if drawn.likely is None:
        return {"likely": None}
    held_out, training = drawn.bits
    of = [held_out[round(i * (len(held_out) - 1) / max(1, len(drawn.likely) - 1))] for i in range(len(drawn.likely))]
    return {
        "likely": [
            tile(image, f"held-out picture, {bits:.2f} bits") for image, bits in zip(drawn.likely, of, strict=True)
        ],
        "likely_bits": [f"{bits:.2f}" for bits in of],
        "bits": [
            ("held-out pictures", *_mean(held_out)),
            ("training pictures", *_mean(training)),
        ],
        "bound": drawn.bound,
        "measured": len(held_out),
    }


def _mean(values: Sequence[float]) -> tuple[str, str]:
    """The mean and its standard error."""
    spread = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{statistics.fmean(values):.2f}", f"± {spread:.2f}"


def _curves(run: Run) -> dict[str, Any]:
    training = [entry for entry in run.log if "loss" in entry]
    validations = [(entry["images"], entry["validation"]) for entry in run.log if "loss" in entry.get("validation", {})]
    losses = [entry["loss"] for entry in training]
    lines = []
    if training:
        seen = [entry["images"] for entry in training]
        lines.append(Line("training", seen, smooth(losses, max(1, len(losses) // 60)), "first"))
    if validations:
        lines.append(
            Line("held out", [images for images, _ in validations], [v["loss"] for _, v in validations], "second")
        )
    loss = chart(lines, "pictures seen", "loss", "Training and held-out loss against pictures seen", log=True)
    chosen = [v for v in validations if "bins" in v[1]]
    if len(chosen) > SHOWN_VALIDATIONS:
        last = len(chosen) - 1
        chosen = [chosen[round(i * last / (SHOWN_VALIDATIONS - 1))] for i in range(SHOWN_VALIDATIONS)]
    bins = [
        Line(f"{images:,}", v["logsnr"], v["bins"], f"age-{SHOWN_VALIDATIONS - len(chosen) + i}")
        for i, (images, v) in enumerate(chosen)
    ]
    levels = chart(
        bins,
        "log SNR (noise … data)",
        "held-out loss by noise level, after so many pictures",
        "Held-out loss by noise level",
        log=True,
    )
    return {"loss": Markup(loss), "levels": Markup(levels)}  # made of numbers and escaped text


def _averages(run: Run) -> dict[str, Any]:
    """Quality against the width of the average, as ``reverie ema RUN --curve`` left it in the run."""
    path = run.folder / CURVE
    if not path.exists():
        return {"widths": None}
    kept = json.loads(path.read_text(encoding="utf-8"))
    rows = kept["widths"]
    measure = next(name for name in ("frechet_ratio", "frechet", *rows[0]["figures"]) if name in rows[0]["figures"])
    title = TITLES[measure]
    line = Line("samples", [row["std"] for row in rows], [row["figures"][measure] for row in rows], "first")
    best = min(rows, key=lambda row: row["figures"][measure])
    figure = chart(
        [line], "width of the average, of the training time", title, f"{title} against the width of the average"
    )
    how = f"{len(kept['seeds'])} × {kept['count']:,} samples at each width"
    return {"widths": Markup(figure), "best_width": f"{best['std']:g}", "widths_how": how}


def _measures(run: Run, evaluation: Evaluation | None) -> dict[str, Any]:
    if evaluation is None:
        return {"evaluation": None}
    m = evaluation.memorisation["samples"]
    distances = chart(
        [
            Line("samples", *steps(m.edges, m.histogram), "first", fill=True),
            Line("held-out pictures", *steps(m.edges, m.held_out_histogram), "second", fill=True),
        ],
        "root mean square difference per pixel",
        "distance to the nearest training picture",
        "Histogram of distances to the nearest training picture, of samples and of held-out pictures",
        percent=True,
    )
    names = dict.fromkeys(figure.measure for figure in evaluation.figures)
    table = []
    for name in names:
        row = [evaluation.figure(name, of) for of in evaluation.subjects]
        table.append((next(f.title for f in row if f is not None), row, evaluation.tells(name)))
    copies = [evaluation.memorisation.get(of) for of in evaluation.subjects]
    return {
        "evaluation": evaluation,
        "subjects": [SUBJECTS[of] for of in evaluation.subjects],
        "noisy": "noise" in evaluation.subjects,
        "warnings": evaluation.warnings,
        "table": table,
        "copies": ["" if c is None else percent(c.copies) for c in copies],
        "distances": Markup(distances),
        "pairs": _pairs(run, evaluation),
        "memorisation": m,
    }


def _kept(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """All measurements that are kept, a row each: how was drawn, what came out, when."""
    if len(evaluations) < 2:
        return {"kept": []}
    ways = list(dict.fromkeys(key for e in evaluations for key in e.drawn))
    taken = [{f.title: f.text for f in e.figures if f.of == "samples"} for e in evaluations]
    titles = list(dict.fromkeys(title for texts in taken for title in texts))
    rows = []
    for e, texts in zip(evaluations, taken, strict=True):
        first, copies = e.figures[0], e.memorisation.get("samples")
        drawn = [e.drawn.get(key, "") for key in ways]
        rows.append(
            [
                *(f"{value:g}" if isinstance(value, float) else str(value) for value in drawn),
                f"{len(first.seeds)} × {first.count:,}",
                *(texts.get(title, "") for title in titles),
                "" if copies is None else percent(copies.copies),
                "" if e.images is None else f"{e.images:,}",
                e.date.partition("+")[0].replace("T", " "),
            ]
        )
    heads = [*ways, "samples", *titles, "Copies", "pictures seen", "date (UTC)"]
    return {"kept": rows, "kept_heads": heads}


def _pairs(run: Run, evaluation: Evaluation) -> list[dict[str, Any]]:
    """The samples closest to training pictures, each with that picture."""
    path, size = run.folder / CLOSEST, run.recipe.data.size
    if not path.exists() or size is None:
        return []
    images = cut(path, sides(size))
    count = len(evaluation.closest)
    return [
        {
            "sample": tile(images[i], "sample"),
            "neighbour": tile(images[count + i], f"training picture {closest.index}"),
            "ratio": f"{closest.ratio:.2f}",
        }
        for i, closest in enumerate(evaluation.closest)
    ]


def _reading(run: Run) -> dict[str, Any]:
    """What ``reverie read probe`` and ``reverie read segment`` left in the run."""
    path, masks = run.folder / "read" / "probe.json", run.folder / "read" / "segment.png"
    probed = Probed.load(path) if path.exists() else None
    return {
        "probed": probed,
        "heatmap": probed and Markup(heatmap(probed)),
        "segmented": "data:image/png;base64," + base64.b64encode(masks.read_bytes()).decode()
        if masks.exists()
        else None,
    }


def _environment(run: Run) -> list[tuple[str, str]]:
    state = run.checkpoint.state
    return [
        ("Reverie", version("reverie")),
        ("PyTorch", state["torch"]),
        ("Python", platform.python_version()),
        ("system", f"{platform.system()} {platform.machine()}"),
        ("threads in training", str(state["threads"])),
        ("training time", _duration(state["seconds"])),
        ("checkpoint", run.checkpoint.folder.name),
    ]


def tile(image: Tensor, alt: str) -> dict[str, str]:
    """A picture as a data URI with its description."""
    picture = to_picture(image)
    if max(picture.size) > LARGEST:
        picture.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return {"src": "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode(), "alt": alt}


def _text(evaluation: Evaluation, measure: str, of: str) -> str:
    figure = evaluation.figure(measure, of)
    return "not measured" if figure is None else figure.text


def _logsnr(value: float) -> str:
    return f"{value:.1f}".replace("-", "−").replace("inf", "∞")


def _at(logsnr: float | None) -> str:
    return "" if logsnr is None else f", log SNR {_logsnr(logsnr)}"


def _duration(seconds: float) -> str:
    """``48 s``, ``1 min 28 s``, ``15 min``, ``2 h 5 min``, not to be broken inside a number."""
    minutes, rest = divmod(round(seconds), 60) if seconds < 600 else (round(seconds / 60), 0)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min"), (rest, "s")]
    return " ".join(f"{n}\N{NO-BREAK SPACE}{unit}" for n, unit in parts if n) or "0\N{NO-BREAK SPACE}s"


def _count(n: int) -> str:
    return f"{n / 1e6:.2g} million" if n >= 100_000 else f"{n:,}"
