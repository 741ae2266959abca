"""Guides on the estimate, on digits and emoji by class: quality, variety and cost against scale. See ``bench/README.md``.

reverie train bench/recipes/digits.yaml --out DIGITS && reverie train bench/recipes/classifier.yaml --out CLASSIFIER
reverie train bench/recipes/emoji.yaml --out EMOJI
python bench/guides.py judge FILE                           # trains what judges emoji by category
python bench/guides.py measure mnist5k DIGITS CLASSIFIER    # writes results/guides_mnist5k.json; what is there is not measured again
python bench/guides.py measure emoji EMOJI FILE
python bench/guides.py table                                # prints docs/guides/scale.md's tables
python bench/guides.py plot                                 # docs/_static/guides_scale_*.png
python bench/guides.py pictures DIGITS CLASSIFIER           # ten digits under each guide
python bench/guides.py panoramas DIGITS                     # pictures wider than the model's
python bench/guides.py cost RUN                             # classifier-free guidance against two evaluations; wants an idle machine
"""

import json
import math
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
from reverie.core.memory import keep_freed_memory
from reverie.learn.checkpoint import Checkpoints
from reverie.measure import frechet_distance, judge, precision_recall
from reverie.nets import taps
from reverie.recipes.runs import Run

RESULTS = {name: Path(__file__).parent / "results" / f"guides_{name}.json" for name in ("mnist5k", "emoji")}
FIGURES = Path(__file__).parent.parent / "docs" / "_static"
SCALES = {"mnist5k": (1.5, 3.0), "emoji": (1.5, 3.0)}
N = {"mnist5k": 500, "emoji": 200}
STEPS = 12


def guides(folder: Path, classifier: Path | None) -> dict[str, Callable[[float], Denoiser]]:
    model = rv.load(folder)
    early = rv.load(Checkpoints(folder / "checkpoints").all()[0].folder)
    raw = rv.load(folder, ema=False)
    less = guide.without(rv.load(folder), ["blocks.2" if "blocks.2" in taps.sites(model) else "middle.1"])
    made: dict[str, Callable[[float], Denoiser]] = {
        "classifier-free": lambda s: guide.cfg(model, s),
        "classifier-free, logsnr below 2": lambda s: guide.cfg(model, s, (-math.inf, 2.0)),
        "classifier-free, logsnr -2 to 4": lambda s: guide.cfg(model, s, (-2.0, 4.0)),
        "rescaled": lambda s: guide.rescaled(model, s),
        "projected (APG)": lambda s: guide.apg(model, s),
        "thresholded": lambda s: guide.threshold(guide.cfg(model, s)),
        "auto, earlier checkpoint": lambda s: guide.auto(model, early, s),
        "auto, weights not averaged": lambda s: guide.auto(model, raw, s),
        "auto, without a block": lambda s: guide.auto(model, less, s),
    }
    if classifier is not None:
        noisy = Run(classifier).classifier()
        made["classifier"] = lambda s: guide.classifier(model, noisy, s)
        made["classifier on conditional"] = lambda s: guide.classifier(model, noisy, s - 1.0, conditional=True)
    return made


def spread(features: Tensor, labels: Tensor) -> float:
    """Mean distance between two samples of one class, the mean over classes of three samples and more."""
    classes = [c for c in labels.unique() if int((labels == c).sum()) > 2]
    return float(torch.stack([torch.pdist(features[labels == c]).mean() for c in classes]).mean())


def measure(name: str, folder: Path, other: Path) -> None:
    """``other`` is a classifier of noisy digits, or the judge of emoji.

    Digits are compared with the held-out ones, ten classes alike; emoji, of which 208 are held out, with all, and their categories drawn
    from the training histogram.
    """
    extractor = judge.load("mnist5k" if name == "mnist5k" else other)
    real, train = data.load(name, "test" if name == "mnist5k" else "all"), data.load(name)
    some = real.batch(range(len(real)))
    pictures, classes = some.x, some.label
    assert classes is not None and train.labels is not None
    reference = extractor(pictures)
    unit = spread(reference, classes)
    n = N[name]
    labels = torch.arange(n) % 10 if name == "mnist5k" else train.labels[guide.draw(len(train), n)]
    made = guides(folder, other if name == "mnist5k" else None)
    cells: list[tuple[str, float, Callable[[float], Denoiser]]] = [
        ("none", 1.0, lambda s: rv.load(folder)), ("null", 0.0, made["classifier-free"]),
        *((each, scale, make) for scale in SCALES[name] for each, make in made.items()),
    ]  # fmt: skip
    about = {"n": n, "steps": STEPS, "solver": "dpmpp2", "extractor": extractor.name, "reference": len(real)}
    fresh = {**about, "judge": extractor.accuracy(data.load(name, "test")), "rows": []}
    mine = json.loads(RESULTS[name].read_text()) if RESULTS[name].exists() else fresh
    for each, scale, make in cells:
        if any((row["guide"], row["scale"]) == (each, scale) for row in mine["rows"]):
            continue
        begun = time.process_time()
        x, report = rv.sample(
            make(scale), n, Cond(label=labels), steps=STEPS, solver="dpmpp2", batch_size=125, report=True
        )
        seconds = time.process_time() - begun
        x = x.detach().clamp(-1.0, 1.0)
        features = extractor(x)
        covered = precision_recall(reference, features)
        row = {
            "guide": each,
            "scale": scale,
            "frechet": frechet_distance(features, reference),
            "precision": covered.precision,
            "recall": covered.recall,
            "accuracy": float((extractor.logits(x).argmax(1) == labels).double().mean()),
            "diversity": spread(features, labels) / unit,
            "evaluations": report.evaluations / STEPS,
            "backwards": report.backwards / STEPS,
            "seconds": seconds / n,
        }
        mine["rows"].append(row)
        RESULTS[name].write_text(json.dumps(mine, indent=1) + "\n")
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}, flush=True)


def everything() -> dict[str, dict]:
    return {name: json.loads(path.read_text()) for name, path in RESULTS.items() if path.exists()}


def table() -> None:
    for name, mine in everything().items():
        print(
            f"\n### {name}: {mine['n']} a cell, {mine['extractor']} (right on {mine['judge']:.1%} of held-out ones)\n"
        )
        print(
            "| guide | scale | Fréchet | precision | recall | accuracy | spread | evaluations |\n|---|---|---|---|---|---|---|---|"
        )
        order = list(dict.fromkeys(row["guide"] for row in mine["rows"]))
        for r in sorted(mine["rows"], key=lambda row: (order.index(row["guide"]), row["scale"])):
            print(
                f"| {r['guide']} | {r['scale']:g} | {r['frechet']:.1f} | {r['precision']:.2f} | {r['recall']:.2f} | {r['accuracy']:.1%} "
                f"| {r['diversity']:.2f} | {r['evaluations']:.2f}{' + 1 back' if r['backwards'] else ''} |"
            )


def plot() -> None:
    """One figure a data set."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    for name, mine in everything().items():
        rows, base = mine["rows"], mine["rows"][0]
        names = list(dict.fromkeys(row["guide"] for row in rows[2:]))
        titles = {
            "frechet": f"Fréchet distance, {mine['extractor']} (lower is better)", "accuracy": "accuracy by the judge",
            "precision": "precision", "recall": "recall", "diversity": "spread within a class, of real ones'",
        }  # fmt: skip
        figure, axes = plt.subplots(2, 3, figsize=(13, 7), constrained_layout=True)
        for axis, (measured, title) in zip(axes.flat, titles.items(), strict=False):
            for i, each in enumerate(names):
                line = [base, *(row for row in rows if row["guide"] == each)]
                axis.plot(
                    [r["scale"] for r in line], [r[measured] for r in line], marker="os^v"[i % 4], ms=4, lw=1.3, color=f"C{i}", label=each,
                    ls="-" if i < 5 else "--",
                )  # fmt: skip
            axis.set_title(title, fontsize=10)
            axis.set_xlabel("scale")
        axes.flat[-1].axis("off")
        axes.flat[-1].legend(*axes.flat[0].get_legend_handles_labels(), loc="center", frameon=False)
        figure.savefig(FIGURES / f"guides_scale_{name}.png", dpi=100)


def pictures(folder: Path, classifier: Path) -> None:
    """Ten digits from the same noise under each guide."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    model, made = rv.load(folder), guides(folder, classifier)
    rows = {
        "no label": guide.cfg(model, 0.0),
        "label, unguided": model,
        **{f"{name}, {scale:g}": made[name](scale) for name, scale in (
            ("classifier-free", 2.5), ("classifier-free", 6.0), ("classifier-free, logsnr below 2", 6.0), ("rescaled", 6.0),
            ("projected (APG)", 6.0), ("auto, earlier checkpoint", 2.5), ("classifier", 2.5),
        )},
    }  # fmt: skip
    figure, axes = plt.subplots(len(rows), 1, figsize=(7, 0.78 * len(rows)), constrained_layout=True)
    for axis, (name, denoise) in zip(axes, rows.items(), strict=True):
        x = rv.sample(denoise, 10, Cond(label=torch.arange(10)), steps=16, solver="dpmpp2", seed=4)
        axis.imshow(torch.cat(list(x[:, 0]), dim=1).clamp(-1, 1), cmap="gray")
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
        axis.set(xticks=[], yticks=[])
    figure.savefig(FIGURES / "guides_digits.png", dpi=110)


def panoramas(folder: Path) -> None:
    """Pictures wider than the model's."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    model, wide = rv.load(folder), 28 + 6 * 14
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
    figure.savefig(FIGURES / "guides_panorama.png", dpi=110)


def cost(folder: Path) -> None:
    """The median time of a guided evaluation over that of two plain ones, taken in turn; memory kept as ``reverie sample`` keeps it."""
    keep_freed_memory()
    model = rv.load(folder)
    guided, point = guide.cfg(model, 3.0), model.schedule.point(0.5)
    for batch, repeats in ((1, 200), (8, 80), (32, 40)):
        cond, x = Cond(label=torch.arange(batch) % 10), torch.randn(batch, *model.shape)
        run = {"guided": [(guided, cond)], "two": [(model, cond), (model, cond.null())]}
        times: dict[str, list[float]] = {name: [] for name in run}
        with torch.no_grad():
            for _ in range(repeats):
                for name, calls in run.items():
                    begun = time.perf_counter()
                    for denoise, given in calls:
                        denoise(x, point, given)
                    times[name].append(time.perf_counter() - begun)
        one, two = (1e3 * float(torch.tensor(each).median()) for each in times.values())
        print(f"batch of {batch}: {one:.2f} ms against {two:.2f} ms: {one / two:.3f}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    match sys.argv[1:]:
        case ["judge", out]:
            judge.train(data.load("emoji"), images=40_000).save(out)
        case ["measure", ("mnist5k" | "emoji") as name, run, other]:
            measure(name, Path(run), Path(other))
        case ["table"]:
            table()
        case ["plot"]:
            plot()
        case ["pictures", run, classifier]:
            pictures(Path(run), Path(classifier))
        case ["panoramas", run]:
            panoramas(Path(run))
        case ["cost", run]:
            cost(Path(run))
        case _:
            sys.exit(__doc__)
