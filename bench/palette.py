"""Restoration that is learned (Palette) beside posterior methods that are told of the damage only when they draw, and beside baselines that
have learned nothing: the tables of docs/guides/pictures.md.

python bench/palette.py OUT [--data digits emoji photographs] [--budget 120]

For each data set one model of the pictures is trained, which serves the posterior methods for every task, and for each task one run of
Palette with the same network, each for so many seconds of one processor. The runs are kept in OUT and go on where they were; rows in
results/palette.json are not measured again; the tables are written into the page.
"""

import argparse
import json
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import restore
import reverie as rv
from reverie.core.denoiser import Denoiser
from reverie.data import ImageSet
from reverie.diffusion import palette
from reverie.diffusion.conditioned import PaletteConfig
from reverie.diffusion.jpeg import jpeg
from reverie.inverse.operators import Colourise, Inpaint, Operator, SuperResolution
from reverie.recipes import Recipe, Run, measuring, outlook, serialisation

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results" / "palette.json", HERE.parent / "docs" / "guides" / "pictures.md"
COUNT = {"digits": 32, "emoji": 16, "photographs": 16}
QUALITY = 10
FEW = 320
"""Images of the shorter of the runs that tell a recipe's pace."""
SAME, OTHER = "palette, told a reference", "palette, told one of another class"
HEAD = "| task | method | PSNR | SSIM | class | consistency | evaluations | backward |\n|---|---|---:|---:|---:|---:|---:|---:|"


class Jpeg(Operator):
    """JPEG of one quality, which gradients pass as if it were nothing: it changes its own result no more, so that it is its own
    pseudo-inverse (Song et al., "Pseudoinverse-Guided Diffusion Models for Inverse Problems", ICLR 2023, section 3.3)."""

    gram = 1.0

    def __call__(self, x: Tensor) -> Tensor:
        return x + (jpeg(x.detach(), torch.full((len(x),), QUALITY)) - x).detach()

    def adjoint(self, y: Tensor) -> Tensor:
        return y


@dataclass
class Task:
    """A kind of damage: the setting of Palette by which it is learned, what it does to pictures, and what Palette is shown of them."""

    op: str
    operator: Operator

    def shown(self, truth: Tensor, y: Tensor) -> palette.Shown:
        match self.operator:
            case Inpaint(mask=mask):
                return palette.holed(truth, mask)
            case SuperResolution(factor=factor):
                return palette.small(y, factor)
            case Colourise():
                return palette.grey(y)
        return palette.Shown(y)


def tasks(side: int, channels: int) -> dict[str, Task]:
    box, border = torch.ones(side, side), torch.ones(side, side)
    box[side // 4 : -side // 4, side // 4 : -side // 4] = 0
    border[:, -(3 * side // 8) :] = 0
    every = {
        "box inpainting": Task("inpaint", Inpaint(box)),
        "uncropping": Task("uncrop", Inpaint(border)),
        "4x super-resolution": Task("superres", SuperResolution(4)),
        "JPEG repair": Task("jpeg", Jpeg()),
    }
    return every if channels == 1 else {**every, "colourise": Task("colourise", Colourise())}


class Bench:
    def __init__(self, out: Path, data: str, budget: float) -> None:
        self.out, self.data, self.budget = out / data, data, budget
        self.models: dict[str, Denoiser] = {}
        self.paces: dict[str, tuple[float, float]] = {}
        self.recipe = serialisation.load(HERE / "recipes" / f"{data}.yaml")
        if data == "photographs":
            folder = out / "patches"
            if not folder.is_dir():
                restore.patches(str(folder))
            self.recipe = replace(self.recipe, data=replace(self.recipe.data, name=str(folder)))
            self.truth, self.labels, self.judge = restore.held_out(data, COUNT[data]), None, None
            return
        held_out: ImageSet = rv.data.load(self.recipe.data.name, "test")
        self.rows = spread(torch.arange(len(held_out)), COUNT[data])
        batch = held_out.batch(self.rows)
        assert batch.cond is not None
        self.held_out, self.truth, self.labels = held_out, batch.x, batch.cond["label"].value
        self.judge = measuring.judge_of(self.recipe.data.name, held_out, None)

    def trained(self, name: str, recipe: Recipe) -> Denoiser:
        """What a run of a recipe gives after the budget; begun, gone on with, or there."""
        if name in self.models:
            return self.models[name]
        folder = self.out / name
        recipe = Run(folder).recipe if (folder / "recipe.yaml").is_file() else self.within(recipe)
        begun = time.process_time()
        run, seen = rv.recipes.train(recipe, folder)
        if seen < recipe.train.images:
            raise SystemExit(f"{folder} was interrupted: the same command goes on")
        print(f"{folder}: {seen} images, {time.process_time() - begun:.0f} s of the processor now", flush=True)
        self.models[name] = run.denoiser()
        return self.models[name]

    def within(self, recipe: Recipe) -> Recipe:
        """A recipe with the images that the budget of processor time allows, from two short runs of which one does little but begin, once
        for models of pictures and once for Palette."""
        task = recipe.task.name
        if task not in self.paces:
            took = []
            for images in (FEW, 5 * FEW):
                begun = time.process_time()
                with tempfile.TemporaryDirectory() as trial:
                    rv.recipes.train(replace(recipe, train=replace(recipe.train, images=images, warmup=1)), trial)
                took.append(time.process_time() - begun)
            self.paces[task] = took[0], (took[1] - took[0]) / (4 * FEW)
        start, each = self.paces[task]
        return outlook.within(recipe, self.budget - start, each)

    def learner(self, op: str, reference: bool = False) -> Denoiser:
        """Palette on one kind of damage, with the network of the model of the pictures."""
        recipe = serialisation.load(serialisation.find("palette"))
        task = PaletteConfig(op=op, reference=reference, net=self.recipe.task.net)  # pyright: ignore
        name = f"palette-{op}{'-reference' if reference else ''}"
        train = replace(recipe.train, processes=1)
        return self.trained(name, replace(recipe, name=name, data=self.recipe.data, task=task, train=train))

    def reference(self, other: bool) -> Tensor:
        """A held-out picture of the class of each, or of the class after it."""
        if not other:
            return self.held_out.batch(palette.Referred(self.held_out).next[self.rows]).x
        every = self.held_out.labels
        assert every is not None and self.labels is not None
        after = (self.labels + 1) % int(every.max() + 1)
        return self.held_out.batch(torch.stack([(every == label).nonzero()[0, 0] for label in after])).x

    def methods(self, task: Task) -> list[str]:
        posterior = restore.methods(task.operator, 0.0)
        if isinstance(
            task.operator, Jpeg
        ):  # RePaint adds measurements of noise and of pictures: it needs one that is linear
            posterior.remove("repaint")
        told = [SAME, OTHER] if task.op == "inpaint" and self.labels is not None else []
        return ["bicubic", "total variation", *posterior, "palette", *told]

    def measure(self) -> None:
        channels, side = self.truth.shape[1], self.truth.shape[-1]
        every = tasks(side, channels)
        cells = [(name, method) for name, task in every.items() for method in self.methods(task)]
        for name, method in sorted(cells, key=lambda cell: cell[1] in (SAME, OTHER)):
            task = every[name]
            key, about = f"{self.data}|{name}|{method}", {"budget": self.budget, "pictures": len(self.truth)}
            rows = read()
            if rows.get(key, {}).get("about") == about:
                continue
            y = task.operator(self.truth)
            images, cost = self.restored(task, method, y)
            scores = {**restore.score(task.operator, y, images, self.truth), **cost}
            if self.judge is not None:
                with torch.no_grad():
                    seen = self.judge.head(self.judge.features(images.clamp(-1, 1)).relu()).argmax(1)
                scores["class"] = float((seen == self.labels).double().mean())
            RESULTS.write_text(json.dumps({**rows, key: {"about": about, **scores}}, indent=1) + "\n")
            print(key, {k: round(v, 3) for k, v in scores.items()}, flush=True)

    def restored(self, task: Task, method: str, y: Tensor) -> tuple[Tensor, dict[str, float]]:
        """What a method makes of measurements, and what it costs a picture."""
        if not method.startswith("palette"):
            learned = method not in ("bicubic", "total variation")
            denoise: Any = self.trained("pictures", self.recipe) if learned else None
            made = restore.restored(denoise, method, task.operator, y, self.truth, 0.0)
            return made.images, {"evaluations": made.evaluations, "backwards": made.backwards}
        reference = None if method == "palette" else self.reference(method == OTHER)
        denoise = self.learner(task.op, reference is not None)
        images = palette.restore(denoise, task.shown(self.truth, y), reference=reference, steps=restore.STEPS)
        return images, {"evaluations": float(restore.STEPS), "backwards": 0.0}


def spread(every: Tensor, n: int) -> Tensor:
    """n rows from the first to the last."""
    return every[torch.linspace(0, len(every) - 1, n).long()]


def read() -> dict[str, dict[str, Any]]:
    return json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}


def table(data: str) -> str:
    """The rows of a data set, as markdown."""
    lines, rows = [HEAD], {key[len(data) + 1 :]: row for key, row in read().items() if key.startswith(f"{data}|")}
    tasks = list(dict.fromkeys(key.split("|")[0] for key in rows))
    for key in sorted(rows, key=lambda key: tasks.index(key.split("|")[0])):
        row, (task, method) = rows[key], key.split("|")
        seen = f"{100 * row['class']:.0f} %" if "class" in row else "–"
        lines.append(
            f"| {task} | {method} | {row['psnr']:.1f} | {row['ssim']:.2f} | {seen} | {row['consistency']:.4f} | "
            f"{row['evaluations']:.0f} | {row['backwards']:.0f} |"
        )
    return "\n".join(lines)


def write_page(data: str) -> None:
    """The table of a data set, in its place in the page: between a comment that names it and the next."""
    begin, end = f"% bench/palette.py {data}\n", "% end of bench/palette.py\n"
    before, found, rest = PAGE.read_text("utf-8").partition(begin)
    if found:
        PAGE.write_text(f"{before}{begin}\n{table(data)}\n\n{end}{rest.partition(end)[2]}", "utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", nargs="+", default=list(COUNT))
    parser.add_argument("--budget", type=float, default=120.0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for data in given.data:
        Bench(given.out, data, given.budget).measure()
        write_page(data)
