"""A cascade of emoji, 16 to 32 to 64 pixels: each stage beside bicubic enlargement and a regression network on pictures as they are and on
corrupted ones, and the whole chain; the tables of docs/guides/pictures.md.

python bench/cascade.py OUT [--budget 60]

The base and, for each enlargement, a stage with augmentation, one without, and the same network trained by squared error to give the large
picture at once are each trained for so many seconds of one processor; what enlarges to 64 begins with the weights that enlarge to 32. All
predict x0. Weights are kept in OUT; rows in results/cascade.json are not measured again; the tables are written into the page, and a figure
beside it.
"""

import argparse
import json
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import learners
import restore
import reverie as rv
from panel import Panel
from reverie.core.denoiser import Denoiser
from reverie.core.draws import Draws
from reverie.core.files import read_tensors, write_tensors
from reverie.core.task import Task
from reverie.diffusion import cascade, palette
from reverie.diffusion.conditioned import PaletteConfig
from reverie.diffusion.jpeg import jpeg
from reverie.inverse.operators import SuperResolution
from reverie.learn import grid
from reverie.measure.evaluation import blur
from reverie.recipes import serialisation
from reverie.recipes.recipe import DataConfig, Recipe
from reverie.recipes.suited import suiting

HERE = Path(__file__).parent
RESULTS, DOCS = HERE / "results" / "cascade.json", HERE.parent / "docs"
PAGE, FIGURE = DOCS / "guides" / "pictures.md", DOCS / "_static" / "cascade.png"
DATA, SIZES, STEPS, AT_ONCE = "emoji64", (32, 64), 8, 50
LOOKS = "efficientnet-lite0-128"
PLAIN, REGRESSION = "without augmentation", "regression"
LEVELS = {"level 0": 0.0, "level 0.1": 0.1, "level 0.2": 0.2}
WRONG = {"0.2 added, told 0": (0.2, 0.0), "0 added, told 0.2": (0.0, 0.2)}
DYNAMIC = "level 0, dynamic thresholding"
ENLARGERS = ("bicubic", REGRESSION, PLAIN, *LEVELS, *WRONG, DYNAMIC)
"""The first six of corrupted pictures too."""


class Bench:
    def __init__(self, out: Path, budget: float) -> None:
        self.out, self.budget = out, budget
        self.models: dict[str, Any] = {}
        self.panels: dict[int, Panel] = {}

    def panel(self, size: int) -> Panel:
        if size not in self.panels:
            self.panels[size] = Panel(DATA, size=size)
        return self.panels[size]

    def trained(self, name: str) -> learners.Learner:
        """A method after the budget: "base", or a size and what enlarges to it."""
        if name not in self.models:
            change = at_once if name.endswith(REGRESSION) else None
            learner, path = learners.by_recipe(recipe(name), change=change), self.out / f"{name}.safetensors"
            if path.is_file():
                learner.net.load_state_dict(read_tensors(path))
                learner.net.eval().requires_grad_(False)
            else:
                if name.startswith("64"):
                    learner.net.load_state_dict(self.trained(name.replace("64", "32")).net.state_dict())
                images = learners.learn(learner, self.budget, time.process_time, time.process_time(), 0)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_tensors(path, learner.net.state_dict(), None)
                print(f"{name}: {images} images in {self.budget:g} s of the processor", flush=True)
            self.models[name] = learner
        return self.models[name]

    def stage(self, size: int, kind: str) -> Denoiser:
        return self.trained(f"{size} {kind}").task.denoise  # pyright: ignore[reportAttributeAccessIssue]

    def enlarged(self, size: int, method: str, small: Tensor) -> Tensor:
        """What a method makes (n, 3, size, size) of pictures of half the size."""
        if method == "bicubic":
            return restore.bicubic(SuperResolution(2), small, (3, size, size))
        parts = []
        for seed, part in enumerate(small.split(AT_ONCE)):
            if method == REGRESSION:
                cond = palette.small(part, 2).cond()
                parts.append(self.stage(size, REGRESSION)(torch.zeros(len(part), 3, size, size), 1.0, cond).x0)
            elif method in WRONG:
                parts.append(misled(self.stage(size, "augmented"), part, *WRONG[method], seed))
            elif method == DYNAMIC:
                stage = rv.guide.threshold(self.stage(size, "augmented"))
                parts.append(cascade.enlarge(stage, part, level=0.0, seed=seed, steps=STEPS))
            else:
                stage = self.stage(size, PLAIN if method == PLAIN else "augmented")
                level = None if method == PLAIN else LEVELS[method]
                parts.append(cascade.enlarge(stage, part, level=level, seed=seed, steps=STEPS))
        return torch.cat(parts).detach().clamp(-1.0, 1.0)

    def alone(self) -> None:
        """Each enlargement of held-out pictures."""
        for size in SIZES:
            truth = self.panel(size).held_out.batch(range(len(self.panel(size).held_out))).x
            for name, small in shown(SuperResolution(2)(truth)).items():
                for method in ENLARGERS if name == "true" else ENLARGERS[:6]:
                    self.row(f"{size}|{name}|{method}", size, partial(self.enlarged, size, method, small), truth)

    def chain(self) -> None:
        """What the base draws of the held-out pictures' labels, enlarged twice."""
        labels = self.panel(64).held_out.labels
        assert labels is not None
        base = self.small(labels)
        for method in ENLARGERS[:6]:
            self.row(
                f"chain|{method}", 64, lambda method=method: self.enlarged(64, method, self.enlarged(32, method, base))
            )

    def small(self, labels: Tensor) -> Tensor:
        """What the base draws, (n, 3, 16, 16)."""
        return self.trained("base").draw(len(labels), labels, 2.0, 0).clamp(-1.0, 1.0)

    def figure(self) -> None:
        """A held-out picture a class from 32 to 64, and the chain's samples of the same classes."""
        held_out = self.panel(64).held_out
        assert held_out.labels is not None
        rows = torch.stack([(held_out.labels == label).nonzero()[-1, 0] for label in held_out.labels.unique()])
        truth = held_out.batch(rows).x
        small = SuperResolution(2)(truth)
        made = [self.enlarged(64, method, small) for method in ("bicubic", REGRESSION, "level 0")]
        base = self.small(held_out.labels[rows])
        larger = self.enlarged(32, "level 0.1", base)
        columns = [small, *made, truth, base, larger, self.enlarged(64, "level 0.1", larger)]
        large = torch.stack(
            [x.repeat_interleave(64 // x.shape[-1], 2).repeat_interleave(64 // x.shape[-1], 3) for x in columns], 1
        )
        headings = ("32", "bicubic", "regression", "stage", "truth", "base", "to 32", "to 64")
        grid.save(grid.tile(large.flatten(0, 1), len(columns), headings), FIGURE)

    def row(self, key: str, size: int, make: Any, truth: Tensor | None = None) -> None:
        rows, about = read(), {"budget": self.budget, "steps": STEPS}
        if rows.get(key, {}).get("about") == about:
            return
        begun = time.process_time()
        images = make()
        found = self.panel(size).figures(images, None)
        row = {"seconds": time.process_time() - begun, "copies": found["copies"], **found[LOOKS]}
        if truth is not None:
            row["psnr"] = psnr(images, truth)
        RESULTS.write_text(json.dumps({**rows, key: {"about": about, **row}}, indent=1) + "\n")
        print(key, {k: round(v, 3) for k, v in row.items()}, flush=True)


def recipe(name: str) -> Recipe:
    """That of the library for the pictures of 16 pixels, and that of Palette for what enlarges."""
    size, _, kind = name.partition(" ")
    if size == "base":
        found = suiting(Recipe(data=DataConfig(name=DATA, size=16)))
        return replace(found, train=replace(found.train, processes=1))
    found = serialisation.load(serialisation.find("palette"))
    how: dict[str, Any] = {"times_mean": 40.0, "times_std": 0.0} if kind == REGRESSION else {}
    net = found.task.net  # pyright: ignore[reportAttributeAccessIssue]
    task = PaletteConfig(op="superres", factor=2, augment=kind == "augmented", net=net, kind="x0", **how)
    return replace(found, data=DataConfig(name=DATA, size=int(size)), task=task)


def at_once(task: Any) -> Task:
    """Regression: at t = 1, where nothing is left of x0, and with zeros in place of noise, an estimate of x0 is one of what is shown."""
    task.coupling = lambda x0, noise: torch.zeros_like(x0)
    return task


def misled(stage: Denoiser, small: Tensor, added: float, told: float, seed: int) -> Tensor:
    """What a stage makes of pictures with another level of noise than it is told."""
    left, n = palette.small(small, 2), len(small)
    cond = left.cond(torch.full((n,), added), left.noise(Draws(seed, 0, n)))
    other = rv.Cond(image=cond["image"].value, level=torch.full((n, 1), told))
    return rv.sample(rv.guide.threshold(stage, 0.0), n, other, steps=STEPS, seed=seed, scale=1.0)


def shown(small: Tensor) -> dict[str, Tensor]:
    """Small pictures as they are, with noise, and smoothed and coded as a model may draw them."""
    noise = torch.randn(small.shape, generator=torch.Generator().manual_seed(0))
    return {
        "true": small,
        "noise": (small + 0.2 * noise).clamp(-1.0, 1.0),
        "smooth": jpeg(blur(small, 0.6), torch.full((len(small),), 50.0)),
    }


def psnr(images: Tensor, truth: Tensor) -> float:
    """Of each picture, then the mean."""
    error = (images - truth).flatten(1).square().mean(1).clamp(min=1e-10)
    return float((10.0 * torch.log10(4.0 / error)).mean())


def read() -> dict[str, dict[str, Any]]:
    return json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}


def alone_table() -> str:
    """Each enlargement, as markdown: PSNR, Fréchet ratio and kernel distance from pictures of each kind."""
    kinds, rows = ("true", "noise", "smooth"), read()
    head = " | ".join(f"{kind}: PSNR | Fréchet | kernel" for kind in kinds)
    lines = [f"| to | enlarger | {head} |", "|---|---|" + "---:|" * 9]
    for size in SIZES:
        for method in ENLARGERS:
            cells = [rows.get(f"{size}|{kind}|{method}") for kind in kinds]
            numbers = " | ".join(
                f"{c['psnr']:.1f} | {c['ratio']:.2f} | {c['kernel']:.3f}" if c else "– | – | –" for c in cells
            )
            lines.append(f"| {size} | {method} | {numbers} |")
    return "\n".join(lines)


def chain_table() -> str:
    lines = ["| 16 to 64 by | Fréchet | kernel | precision | recall |", "|---|---:|---:|---:|---:|"]
    for key, row in read().items():
        if key.startswith("chain|"):
            numbers = f"{row['ratio']:.1f} | {row['kernel']:.2f} | {row['precision']:.0%} | {row['recall']:.0%}"
            lines.append(f"| {key.split('|')[1]} | {numbers} |")
    return "\n".join(lines)


def write_page() -> None:
    """The tables in their place in the page: between a comment that names them and the next."""
    begin, end = "% bench/cascade.py\n", "% end of bench/cascade.py\n"
    before, found, rest = PAGE.read_text("utf-8").partition(begin)
    if found:
        tables = f"{alone_table()}\n\n{chain_table()}"
        PAGE.write_text(f"{before}{begin}\n{tables}\n\n{end}{rest.partition(end)[2]}", "utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--budget", type=float, default=60.0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(given.out, given.budget)
    bench.alone()
    bench.chain()
    bench.figure()
    write_page()
    print(f"{alone_table()}\n\n{chain_table()}")
