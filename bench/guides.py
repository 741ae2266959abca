"""Guides on class-conditional digits: quality, variety and cost against scale. See ``bench/README.md``.

reverie train bench/recipes/digits.yaml --out RUN && reverie train bench/recipes/classifier.yaml --out CLASSIFIER
python bench/guides.py measure RUN CLASSIFIER    # writes results/guides.json
python bench/guides.py plot                      # docs/_static/guides_scale.png
python bench/guides.py cost RUN                  # classifier-free guidance against two evaluations; wants an idle machine
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import reverie as rv
from reverie import data, guide
from reverie.core.condition import Cond
from reverie.core.denoiser import Denoiser
from reverie.learn.checkpoint import Checkpoints
from reverie.measure import frechet_distance, judge, precision_recall
from reverie.nets import taps
from reverie.recipes.runs import Run

RESULTS = Path(__file__).parent / "results" / "guides.json"
FIGURE = Path(__file__).parent.parent / "docs" / "_static" / "guides_scale.png"
SCALES = (1.5, 2.5, 4.0)
N, STEPS = 300, 12
INTERVAL = (-2.0, 4.0)


def guides(folder: Path, classifier: Path) -> dict[str, Callable[[float], Denoiser]]:
    model = rv.load(folder)
    early = rv.load(Checkpoints(folder / "checkpoints").all()[0].folder)
    raw = rv.load(folder, ema=False)
    noisy = Run(classifier).classifier()
    less = guide.without(rv.load(folder), ["blocks.2" if "blocks.2" in taps.sites(model) else "middle.1"])
    return {
        "classifier-free": lambda s: guide.cfg(model, s),
        "classifier-free, interval": lambda s: guide.cfg(model, s, INTERVAL),
        "rescaled": lambda s: guide.rescaled(model, s),
        "projected (APG)": lambda s: guide.apg(model, s),
        "thresholded": lambda s: guide.threshold(guide.cfg(model, s)),
        "auto, earlier checkpoint": lambda s: guide.auto(model, early, s),
        "auto, weights not averaged": lambda s: guide.auto(model, raw, s),
        "auto, without a block": lambda s: guide.auto(model, less, s),
        "classifier": lambda s: guide.classifier(model, noisy, s),
        "classifier on conditional": lambda s: guide.classifier(model, noisy, s - 1.0, conditional=True),
    }


def spread(features: Tensor, labels: Tensor) -> float:
    """Mean distance between two samples of one class."""
    return float(torch.stack([torch.pdist(features[labels == c]).mean() for c in labels.unique()]).mean())


def measure(folder: Path, classifier: Path) -> None:
    extractor, held_out = judge.load("mnist5k"), data.load("mnist5k", "test")
    pictures, classes = held_out.batch(range(len(held_out)))
    assert classes is not None
    reference = extractor(pictures)
    unit = spread(reference, classes)
    labels = torch.arange(10).repeat_interleave(N // 10)

    def row(name: str, scale: float, denoise: Denoiser) -> dict[str, float | str]:
        x, report = rv.sample(denoise, N, Cond(label=labels), steps=STEPS, solver="dpmpp2", batch_size=250, report=True)
        x = x.clamp(-1.0, 1.0)
        features = extractor(x)
        covered = precision_recall(reference, features)
        found = {
            "guide": name,
            "scale": scale,
            "frechet": frechet_distance(features, reference),
            "precision": covered.precision,
            "recall": covered.recall,
            "accuracy": float((extractor.logits(x).argmax(1) == labels).double().mean()),
            "diversity": spread(features, labels) / unit,
            "evaluations": report.evaluations / STEPS,
        }
        print(json.dumps(found), flush=True)
        return found

    rows = [row("none", 1.0, rv.load(folder)), row("null", 0.0, guide.cfg(rv.load(folder), 0.0))]
    rows += [row(name, scale, make(scale)) for name, make in guides(folder, classifier).items() for scale in SCALES]
    about = {"n": N, "steps": STEPS, "solver": "dpmpp2", "reference": len(held_out), "interval": INTERVAL}
    RESULTS.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


def plot() -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = json.loads(RESULTS.read_text())["rows"]
    base = rows[0]
    names = list(dict.fromkeys(row["guide"] for row in rows[2:]))
    titles = {
        "frechet": "Fréchet distance (lower is better)", "accuracy": "accuracy by the judge", "precision": "precision",
        "recall": "recall", "diversity": "spread within a class, of real digits'",
    }  # fmt: skip
    figure, axes = plt.subplots(2, 3, figsize=(13, 7), constrained_layout=True)
    for axis, (measure, title) in zip(axes.flat, titles.items(), strict=False):
        for i, name in enumerate(names):
            mine = [base, *(row for row in rows if row["guide"] == name)]
            axis.plot(
                [r["scale"] for r in mine], [r[measure] for r in mine], "o-", ms=3, lw=1.3, color=f"C{i}", label=name
            )
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("scale")
    axes.flat[-1].axis("off")
    axes.flat[-1].legend(*axes.flat[0].get_legend_handles_labels(), loc="center", frameon=False)
    figure.savefig(FIGURE, dpi=110)
    print(FIGURE)


def pictures(folder: Path, classifier: Path) -> None:
    """Ten digits from the same noise under each guide, and a picture wider than the model's."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    model, made = rv.load(folder), guides(folder, classifier)
    rows = {
        "no label": guide.cfg(model, 0.0),
        "label, unguided": model,
        **{f"{name}, {scale:g}": made[name](scale) for name, scale in (
            ("classifier-free", 2.5), ("classifier-free", 6.0), ("classifier-free, interval", 6.0), ("rescaled", 6.0),
            ("projected (APG)", 6.0), ("auto, earlier checkpoint", 2.5), ("classifier", 2.5),
        )},
    }  # fmt: skip
    figure, axes = plt.subplots(len(rows), 1, figsize=(7, 0.78 * len(rows)), constrained_layout=True)
    for axis, (name, denoise) in zip(axes, rows.items(), strict=True):
        x = rv.sample(denoise, 10, Cond(label=torch.arange(10)), steps=16, solver="dpmpp2", seed=4)
        axis.imshow(torch.cat(list(x[:, 0]), dim=1).clamp(-1, 1), cmap="gray")
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
        axis.set(xticks=[], yticks=[])
    figure.savefig(FIGURE.with_name("guides_digits.png"), dpi=110)

    wide = 28 + 6 * 14
    regions = [(torch.zeros(28, wide), Cond(label=digit)) for digit in (2, 0, 2, 6)]
    for i, (weight, _) in enumerate(regions):
        weight[:, i * wide // 4 : (i + 1) * wide // 4] = 1.0
    canvases = {
        "regions of 2, 0, 2 and 6": guide.windows(guide.cfg(model, 2.0), (28, wide), 7, regions),
        "one label everywhere, stride 7": guide.windows(guide.cfg(model, 2.0), (28, wide), 7),
        "the same, stride 28": guide.windows(guide.cfg(model, 2.0), (28, wide), 28),
    }
    figure, axes = plt.subplots(3, 1, figsize=(6, 5.2), constrained_layout=True)
    for axis, (name, denoise) in zip(axes, canvases.items(), strict=True):
        cond = None if "regions" in name else Cond(label=8)
        axis.imshow(rv.sample(denoise, 1, cond, steps=16, solver="dpmpp2", seed=2)[0, 0].clamp(-1, 1), cmap="gray")
        axis.set_title(name, fontsize=9)
        axis.set(xticks=[], yticks=[])
    figure.savefig(FIGURE.with_name("guides_panorama.png"), dpi=110)


def cost(folder: Path, batch: int = 32, repeats: int = 40) -> None:
    """The median time of a guided evaluation over that of two plain ones, taken in turn."""
    model = rv.load(folder)
    guided, cond = guide.cfg(model, 3.0), Cond(label=torch.arange(batch) % 10)
    x, point = torch.randn(batch, *model.shape), model.schedule.point(0.5)
    times: dict[str, list[float]] = {"guided": [], "two": []}
    with torch.no_grad():
        for _ in range(repeats):
            for name, calls in (
                ("guided", (lambda: guided(x, point, cond),)),
                ("two", (lambda: model(x, point, cond),) * 2),
            ):
                begun = time.perf_counter()
                for call in calls:
                    call()
                times[name].append(time.perf_counter() - begun)
    median = {name: float(torch.tensor(each).median()) for name, each in times.items()}
    print(
        f"{median['guided'] * 1e3:.2f} ms against {median['two'] * 1e3:.2f} ms: {median['guided'] / median['two']:.3f}"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    match sys.argv[1:]:
        case ["measure", run, classifier]:
            measure(Path(run), Path(classifier))
        case ["plot"]:
            plot()
        case ["pictures", run, classifier]:
            pictures(Path(run), Path(classifier))
        case ["cost", run]:
            cost(Path(run))
        case _:
            sys.exit(__doc__)
