"""Who learns fastest? The same time, data and judges for ours, diffusers' example, a plain DiT and EDM's recipe (learners.py).

    python bench/train.py run mnist5k --seconds 60 150 600 --threads 2       # wall-clock; wants an idle machine
    torchrun --nproc-per-node 2 bench/train.py run mnist5k --seconds 60      # two processes share each batch, of every method
    python bench/train.py run mnist5k --seconds 60 --clock processor         # processor time, on a machine with other work
    python bench/train.py run emoji --seconds 300 --methods ours diffusers --judge runs/emoji-judge
    python bench/train.py cifar cifar10-10k                                  # 10,000 pictures, from reverie prefetch cifar10
    python bench/train.py run ./cifar10-10k --seconds 300 --methods ours diffusers
    python bench/train.py table        # as results/train.md, for docs/guide/learning_speed.md
    python bench/train.py figure       # docs/_static/learns_fastest.svg

Each length is a training of its own, since schedules end with it. Samples are drawn at the guidance scale that a few of another seed
favour. A row of results/train.json is not measured again. ``reverie prefetch efficientnet-lite0`` brings the outside features.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import torch

import reverie as rv
from learners import CLOCKS, LEARNERS, Learner, learn, warm_up
from panel import Panel
from reverie.core.files import write
from reverie.core.memory import keep_freed_memory
from reverie.learn.grid import save, tile, to_bytes, to_picture
from reverie.learn.meeting import Meeting
from reverie.learn.runtime import launched

RESULTS = Path(__file__).parent / "results" / "train.json"
TABLE = RESULTS.with_suffix(".md")
FIGURE = Path(__file__).parent.parent / "docs" / "_static" / "learns_fastest.svg"
SCALES, PICK, COUNT = (1.0, 1.5, 2.0, 2.75), 128, 1000
TITLES = {
    "ours": "ours",
    "diffusers": "diffusers' example",
    "diffusers_fast": "the same, ten times the rate",
    "dit": "plain DiT, rectified flow",
    "edm": "EDM's recipe",
}
COLOURS = {"ours": "#2a6fbb", "diffusers": "#c2571a", "diffusers_fast": "#d9a21b", "dit": "#2f8f4e", "edm": "#8a4fb0"}


def cifar(folder: Path) -> None:
    """11,100 training pictures of CIFAR-10 (``reverie prefetch cifar10``) in a folder a class, of which a tenth is held out by name."""
    data = rv.data.load("cifar10")
    some = data.batch(range(11_100))
    assert some.label is not None
    for i, (picture, label) in enumerate(zip(to_bytes(some.x), some.label, strict=True)):
        place = folder / data.classes[int(label)]
        place.mkdir(parents=True, exist_ok=True)
        to_picture(picture).save(place / f"{i:05d}.png")


def rows() -> dict[str, Any]:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def best_scale(learner: Learner, panel: Panel) -> float:
    """The guidance scale whose samples are nearest to held-out pictures."""
    if not learner.guided:
        return 1.0
    labels = panel.labels(len(panel.held_out))
    assert labels is not None
    few = labels[torch.linspace(0, len(labels) - 1, PICK).long()]
    return min(SCALES, key=lambda scale: panel.quick(learner.draw(PICK, few, scale, 1000)))


def row(method: str, panel: Panel, given: argparse.Namespace, seconds: float) -> dict[str, Any] | None:
    """Train, draw, judge; None in processes that only help to train."""
    warm_up(LEARNERS[method](panel.data, given.seed))
    clock = CLOCKS[given.clock]
    began = clock()
    learner = LEARNERS[method](panel.data, given.seed)
    images = learn(learner, seconds, clock, began, given.seed)
    took = clock() - began
    rank, world, _ = launched()
    if rank:
        return None
    labels = panel.labels(COUNT) if learner.guided else None
    scale = best_scale(learner, panel)
    samples = learner.draw(COUNT, labels, scale, given.seed)
    if given.pictures:
        some = torch.linspace(0, COUNT - 1, 40).long()
        save(tile(samples[some], 10), Path(given.pictures) / f"{panel.data.replace('/', '-')}-{method}-{seconds:g}.png")
    return {
        "method": method,
        "data": panel.data,
        "seconds": seconds,
        "took": round(took, 1),
        "clock": given.clock,
        "threads": torch.get_num_threads(),
        "processes": world,
        "seed": given.seed,
        "parameters": sum(p.numel() for p in learner.net.parameters()),
        "images": images,
        "scale": scale,
        **panel.figures(samples, labels),
    }


def run(given: argparse.Namespace) -> None:
    panel, (rank, world, _) = Panel(given.data, given.judge), launched()
    meeting = Meeting("judging", rank, world) if world > 1 else None
    for seconds in given.seconds:
        for method in given.methods:
            name = Path(given.data).name
            key = f"{name}, {method}, {seconds:g} s of {given.clock}, {given.threads} x {world}, seed {given.seed}"
            if key in rows():
                continue
            found = row(method, panel, given, seconds)
            if found is None:
                assert meeting is not None
                meeting.hear(key)
                continue
            write(RESULTS, json.dumps({**rows(), key: {**found, "data": name}}, indent=1) + "\n")
            write(TABLE, table(rows()))
            print(line(found), flush=True)
            if meeting is not None:
                meeting.tell(key)


def spaces(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The figures of a row by feature space, the judge's first."""
    return [value for value in found.values() if isinstance(value, dict)]


def line(found: dict[str, Any]) -> str:
    """Of the table."""
    accuracy = f"{100 * found['accuracy']:.1f} %" if "accuracy" in found else "–"
    each = " | ".join(f"{s['ratio']:.2f} | {s['kernel']:.3f} | {100 * s['recall']:.0f} %" for s in spaces(found))
    return (
        f"| {found['seconds']:g} s | {TITLES[found['method']]} | {found['parameters'] / 1e6:.2f} M | {found['images']:,} | "
        f"{found['scale']:g} | {accuracy} | {each} | {100 * found['copies']:.1f} % |"
    )


def table(found: dict[str, Any]) -> str:
    """As markdown, a table for each data set and way to count time."""
    parts = []
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for each in found.values():
        how = f"{each['clock']} time, {each['threads'] * each['processes']} threads"
        groups.setdefault((each["data"], how), []).append(each)
    for (data, how), some in groups.items():
        names = [name for name, value in some[0].items() if isinstance(value, dict)]
        head = " | ".join(f"ratio, {name} | kernel | recall" for name in names)
        parts.append(f"{data}, {how}\n")
        parts.append(f"| time | method | weights | images | scale | accuracy | {head} | copies |")
        parts.append("|---:|---|---:|---:|---:|---:|" + "---:|" * (3 * len(names)) + "---:|")
        parts += [line(each) for each in sorted(some, key=lambda r: (r["seconds"], list(TITLES).index(r["method"])))]
        parts.append("")
    return "\n".join(parts)


def figure(found: dict[str, Any], data: str = "mnist5k") -> None:
    """The ratio against time, in the judge's features and in those from outside."""
    import matplotlib.pyplot as plt

    some = sorted((r for r in found.values() if r["data"] == data), key=lambda r: r["seconds"])
    names = [name for name, value in some[0].items() if isinstance(value, dict)]
    drawn, axes = plt.subplots(1, len(names), figsize=(9, 3.6), layout="constrained")
    for axis, name in zip(axes, names, strict=True):
        for method in TITLES:
            mine = [r for r in some if r["method"] == method]
            if mine:
                seconds, ratios = [r["seconds"] for r in mine], [r[name]["ratio"] for r in mine]
                axis.loglog(seconds, ratios, "o-", color=COLOURS[method], label=TITLES[method])
        axis.set_xticks(times := sorted({r["seconds"] for r in some}), [f"{t:g}" for t in times], minor=False)
        axis.minorticks_off()
        axis.set(title=name, xlabel="seconds of training", ylabel="Fréchet ratio")
        axis.grid(True, alpha=0.3)
    drawn.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    drawn.savefig(FIGURE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    running = verbs.add_parser("run")
    running.add_argument("data", help="a data set, or a folder of pictures")
    running.add_argument("--seconds", type=float, nargs="+", default=[60.0, 150.0, 600.0])
    running.add_argument("--methods", nargs="+", choices=LEARNERS, default=list(LEARNERS))
    running.add_argument("--clock", choices=CLOCKS, default="wall")
    running.add_argument("--threads", type=int, default=1 if "RANK" in os.environ else 2)
    running.add_argument("--seed", type=int, default=0)
    running.add_argument("--judge", help="file or run of a judge, where none is bundled")
    running.add_argument("--pictures", help="folder for a sheet of samples of each row")
    verbs.add_parser("cifar").add_argument("folder", type=Path)
    for verb in ("table", "figure"):
        verbs.add_parser(verb)
    given = parser.parse_args()
    if given.verb == "run":
        torch.set_num_threads(given.threads)
        keep_freed_memory()
        run(given)
    elif given.verb == "cifar":
        cifar(given.folder)
    elif given.verb == "table":
        print(table(rows()))
    else:
        figure(rows())


if __name__ == "__main__":
    main()
