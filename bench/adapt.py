"""Personalisation at an equal budget: four subjects by every method; the table of docs/adapt/index.md.

python bench/adapt.py RUN OUT [--budget 60] [--methods lora svdiff] [--pictures 4] [--n 100]

RUN is a model of digits by class, such as that of the recipe demo. A subject is a hand: held-out digits of one class, all changed
alike. Four are learned; the others of that hand, unseen, teach a classifier, beside the same digits unchanged, what the hand is.
Adapters are runs in OUT, which go on where they stopped; each row is written as it is measured (bench/results/adapt.json), and is not
measured again. The budget is of processor time, so that a machine that does other things besides measures the same: a method gets as many
steps as it, less the class that it draws, allows at the pace of its first few.

Subject: the share of drawn pictures of the token that are of the hand, by that classifier. Class: the share of them that the judge sees
as the class; both: of those that are both. Drift: how far pictures of the class drawn under its own label move, the same noise with and
without the adapter, rms in [−1, 1], and the share of these that turn into the hand. "the class itself" is the base under the label of
the class: it must lose on the subject. Encoders are trained once, on hands of other kinds (turned, leaning to the right, narrow, thin,
pale); their training is no part of the budget, and the time that they take to predict is.

The usual learning rates of the methods are for networks that are thousands of times as large. All weights and their residuals are learned
at five times those (of 1, 5 and 10 times for LoRA on the first subject), and DreamBooth at ten, as its own is a tenth of LoRA's.
"""

import argparse
import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F

import reverie as rv
from reverie.adapt.applying import FILE
from reverie.cli import main as reverie
from reverie.core.files import write
from reverie.learn import grid
from reverie.recipes import measuring, sources
from reverie.recipes.runs import Run

RESULTS = Path(__file__).parent / "results" / "adapt.json"
METHODS = (
    "lora", "lora --preserve 0", "lora --dora", "svdiff", "svdiff --preserve 0", "textual", "xti", "custom", "dreambooth",
    "dreambooth --preserve 0", "e4t", "e4t --no-tune", "hyperdreambooth", "hyperdreambooth --no-tune",
)  # fmt: skip
ENCODERS = ("e4t", "hyperdreambooth")
FASTER = {"lora": 5.0, "svdiff": 5.0, "custom": 5.0, "dreambooth": 10.0}
"""Times the usual learning rate."""
HANDS, EACH, SEEN = 100, 8, 8_000
"""What an encoder learns from: hands, pictures of each, and pictures that it sees in all."""


def slanted(x: Tensor) -> Tensor:
    """Leaning to the left by a third of their height."""
    theta = torch.tensor([[1.0, -0.6, 0.0], [0.0, 1.0, 0.0]]).expand(len(x), -1, -1)
    where = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x + 1, where, align_corners=False) - 1


def bold(x: Tensor) -> Tensor:
    """Strokes two pixels wider on each side."""
    return F.max_pool2d(x, 5, stride=1, padding=2)


def outlined(x: Tensor) -> Tensor:
    """The rim of the strokes alone."""
    return (F.max_pool2d(x, 3, 1, 1) - (-F.max_pool2d(-x, 3, 1, 1)) - 1).clamp(-1, 1)


def negative(x: Tensor) -> Tensor:
    """Black on white."""
    return -x


def another(x: Tensor, rng: torch.Generator) -> Tensor:
    """Of a hand that is none of the subjects: turned, leaning to the right, narrow or low, thin or not, pale."""
    turn, lean, wide, high, pale, thin = torch.rand(6, generator=rng).tolist()
    turn, lean, wide, high = turn - 0.5, 0.6 * lean, 1.0 + 0.5 * wide, 1.0 + 0.5 * high
    cos, sin = math.cos(turn), math.sin(turn)
    theta = torch.tensor([[cos, -sin], [sin, cos]]) @ torch.tensor([[wide, wide * lean], [0.0, high]])
    where = F.affine_grid(F.pad(theta, (0, 1)).expand(len(x), -1, -1), list(x.shape), align_corners=False)
    moved = F.grid_sample(x + 1, where, align_corners=False) * (0.5 + 0.5 * pale)
    return (-F.max_pool2d(-moved, 2, 1, 1)[..., :-1, :-1] if thin < 0.4 else moved) - 1


FEW = 16
"""Images of the shorter of the runs that tell a method's pace."""
SUBJECTS: dict[str, tuple[int, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "slanted 4": (4, slanted, lambda x: x),
    "bold 7": (7, bold, lambda x: x),
    "outlined 0": (0, outlined, lambda x: x),
    "negative 3": (3, negative, negative),
}
"""The class of each, the hand, and how the judge, who knows white on black, is shown it."""


class Bench:
    def __init__(self, run: str, out: Path, budget: float, pictures: int, n: int) -> None:
        self.run, self.out, self.budget, self.pictures, self.n = Run(run), out, budget, pictures, n
        self.denoise = self.run.denoiser()
        recipe = self.run.recipe
        judge = measuring.judge_of(recipe.data.name, sources.load(recipe), None)
        assert judge is not None, "the data has no judge"
        self.judge, self.held_out = judge, sources.load(recipe, "test")
        self.warm = False
        self.rows: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}

    def subject(self, name: str) -> tuple[Path, Callable[[Tensor], Tensor]]:
        """The folder of the pictures to learn, and what says which pictures are of the hand, (N,) bool."""
        label, hand, _ = SUBJECTS[name]
        data = self.held_out
        plain = data.batch((data.labels == label).nonzero()[:, 0]).x  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue, reportArgumentType]
        mine, rest = hand(plain[: self.pictures]), plain[self.pictures :]
        folder = self.out / name.replace(" ", "-")
        for i, picture in enumerate(mine):
            grid.save(grid.to_picture(grid.to_bytes(picture)), folder / f"{i}.png")
        seen = torch.cat([hand(rest), rest]).flatten(1).numpy()
        of_it = [True] * len(rest) + [False] * len(rest)
        classifier = LogisticRegression(C=0.01, max_iter=2_000).fit(seen, of_it)
        return folder, lambda x: torch.from_numpy(classifier.predict(x.flatten(1).numpy()))

    def encoder(self, name: str) -> Path:
        """The run of an encoder that has seen other hands."""
        hands, target = self.out / "hands", self.out / name
        if not hands.exists():
            data, rng = sources.load(self.run.recipe), torch.Generator().manual_seed(0)
            partial = hands.with_suffix(".partial")
            for i in range(HANDS):
                own = (data.labels == i % len(data.classes)).nonzero()[:, 0]  # pyright: ignore[reportAttributeAccessIssue]
                some = own[torch.randperm(len(own), generator=rng)[:EACH]]
                for k, picture in enumerate(another(data.batch(some).x, rng)):
                    grid.save(grid.to_picture(grid.to_bytes(picture)), partial / f"{i:02d}" / f"{k}.png")
            partial.rename(hands)
        seen = ["--train.images", str(SEEN), "--train.warmup", str(SEEN // 25), "--train.save-every", str(SEEN)]
        if code := reverie(
            ["train", name, "--base", str(self.run.folder), "--data", str(hands), *seen, "--out", str(target)]
        ):
            raise SystemExit(code)
        return target

    def affordable(self, words: list[str], target: Path) -> int:
        """Images that the budget allows, from two short runs of which one only begins; before the first of all, one to warm up."""
        took = []
        for images in (FEW, 5 * FEW) if self.warm else (FEW, FEW, 5 * FEW):
            begun = time.process_time()
            trial = target.with_name(f"{target.name}-trial-{images}")
            if code := reverie([*words, "--train.images", str(images), "--train.warmup", "1", "--out", str(trial)]):
                raise SystemExit(code)
            shutil.rmtree(trial)
            took.append(time.process_time() - begun)
        self.warm, (begin, more) = True, took[-2:]
        each = (more - begin) / (4 * FEW)
        return max(FEW, int((self.budget - begin) / each) // FEW * FEW)

    @torch.no_grad()
    def draw(self, model: Any, label: int) -> Tensor:
        return rv.sample(model, self.n, rv.Cond(label=label), seed=0, progress="drawing").cpu().clamp(-1, 1)

    def row(self, name: str, spelt: str) -> None:
        """One method on one subject, unless it is there."""
        about = {"budget": self.budget, "pictures": self.pictures, "n": self.n, "base": self.run.recipe.name}
        key, (label, _, shown) = f"{spelt}, {name}", SUBJECTS[name]
        if self.rows.get(key, {}).get("about") == about:
            return
        folder, of_hand = self.subject(name)
        base = self.draw(self.denoise, label)
        facts: dict[str, float] = {"bytes": 0, "images": 0, "seconds": 0.0}
        model, token = self.denoise, label
        if spelt != "the class itself":
            method, *words = spelt.split()
            target = self.out / f"{folder.name}-{spelt.replace(' --', '-').replace(' ', '-')}"
            flags, images = ["--method", method, "--token", "<mine>", "--like", str(label), *words], 0
            if method in FASTER:
                flags += ["--train.lr", str(FASTER[method] * rv.adapt.METHODS[method].rate)]
            if method in ENCODERS:
                flags = ["--encoder", str(self.encoder(method)), "--token", "<mine>", *words]
            if "--no-tune" not in words:
                images = self.affordable(["adapt", str(self.run.folder), str(folder), *flags], target)
                flags += ["--train.images", str(images), "--train.warmup", str(images // 25)]
            begun = time.process_time()
            code = reverie(["adapt", str(self.run.folder), str(folder), *flags, "--out", str(target)])
            if code:
                raise SystemExit(code)
            facts |= {"seconds": round(time.process_time() - begun, 1), "images": images}
            facts["bytes"] = (target / FILE).stat().st_size
            model, token = rv.adapt.apply(self.denoise, rv.adapt.load(target)), len(self.denoise.conditioner.classes)
        drawn, kept = self.draw(model, token), self.draw(model, label)
        features = self.judge.features(shown(drawn) if token != label else drawn)
        mine, right = of_hand(drawn), self.judge.head(features.relu()).argmax(1) == label
        scores = {
            "subject": float(mine.double().mean()),
            "class": float(right.double().mean()),
            "both": float((mine & right).double().mean()),
            "drift": float((kept - base).square().mean().sqrt()),
            "leaked": float(of_hand(kept).double().mean() - of_hand(base).double().mean()),
        }
        grid.save(grid.tile(torch.cat([drawn[:8], kept[:8]]), 8), self.out / "sheets" / f"{key}.png")
        self.rows[key] = {"method": spelt, "name": name, "about": about, **scores, **facts}
        write(RESULTS, json.dumps(self.rows, indent=1) + "\n")
        print(key, {k: round(v, 3) for k, v in {**scores, **facts}.items()}, flush=True)


def table(rows: dict[str, Any]) -> str:
    """Means over the subjects, as markdown."""
    lines = [
        "| method | subject | class | both | drift of the class | leaked | file, kB | images | seconds |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for method in dict.fromkeys(row["method"] for row in rows.values()):
        mine = [row for row in rows.values() if row["method"] == method]

        def mean(key: str, mine: list[Any] = mine) -> float:
            return sum(row[key] for row in mine) / len(mine)

        shares = " | ".join(f"{100 * mean(key):.0f} %" for key in ("subject", "class", "both"))
        lines.append(
            f"| `{method}` | {shares} | {mean('drift'):.3f} | {100 * mean('leaked'):.0f} % | {mean('bytes') / 1e3:,.1f} | "
            f"{mean('images'):,.0f} | {mean('seconds'):.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("out", type=Path)
    parser.add_argument("--budget", type=float, default=60.0)
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--n", type=int, default=100)
    given = parser.parse_args()
    bench = Bench(given.run, given.out, given.budget, given.pictures, given.n)
    for name in SUBJECTS:
        for spelt in ("the class itself", *given.methods):
            bench.row(name, spelt)
    print(table(bench.rows))


if __name__ == "__main__":
    main()
