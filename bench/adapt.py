"""Personalisation at an equal budget: four subjects by every method; the table of docs/adapt/index.md, and its figure.

python bench/adapt.py DIGITS EMOJI OUT --judge emoji-judge.safetensors [--budget 60] [--methods lora svdiff] [--pictures 4] [--n 100]

DIGITS and EMOJI are models by class, such as those of the recipes demo and emoji. A subject is a hand or a style of one class: held-out
digits that are all changed alike, or emoji as Google draws them (`reverie prefetch emoji64 emoji64-google`). Four pictures are learned;
training pictures in that hand and in the model's own teach a classifier what the hand is. Adapters are runs in
OUT, which go on where they stopped; each row is written as it is measured (bench/results/adapt.json), and is not measured again. The
budget is of processor time, so that a machine that does other things besides measures the same: a method gets as many steps as it, less
the class that it draws, allows at the pace of its first few.

Subject: the share of drawn pictures of the token that are of the hand, by that classifier. Class: the share of them that the judge sees
as the class; both: of those that are both. Drift: how far pictures of the class drawn under its own label move, the same noise with and
without the adapter, rms in [−1, 1], and the share of these that turn into the hand. "the class itself" is the base under the label of
the class, "its pictures" are unseen pictures of the subject: between the two lies what can be had. Encoders are trained on the
class in hands of other kinds (turned, leaning to the right, narrow, thin, pale, of other colours); their training is no part of the
budget, and the time that they take to predict is.

The usual learning rates of the methods are for networks that are thousands of times as large. All weights and their residuals are learned
at five times those (of 1, 5 and 10 times for LoRA on the first subject), and DreamBooth at ten, as its own is a tenth of LoRA's.
"""

import argparse
import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
STATIC = Path(__file__).parents[1] / "docs" / "_static"
METHODS = (
    "lora", "lora --preserve 0", "lora --dora", "svdiff", "svdiff --preserve 0", "textual", "xti", "custom", "dreambooth",
    "dreambooth --preserve 0", "e4t", "e4t --no-tune", "hyperdreambooth", "hyperdreambooth --no-tune",
)  # fmt: skip
ITSELF, ITS = BOUNDS = ("the class itself", "its pictures")
ENCODERS = ("e4t", "hyperdreambooth")
FASTER = {"lora": 5.0, "svdiff": 5.0, "custom": 5.0, "dreambooth": 10.0}
"""Times the usual learning rate."""
HANDS, EACH, SEEN = 100, 8, 4_000
"""What an encoder learns from: hands, pictures of each, and pictures that it sees in all."""


def slanted(x: Tensor) -> Tensor:
    """Leaning to the left by a third of their height."""
    theta = torch.tensor([[1.0, -0.6, 0.0], [0.0, 1.0, 0.0]]).expand(len(x), -1, -1)
    where = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x + 1, where, align_corners=False) - 1


def negative(x: Tensor) -> Tensor:
    """Black on white."""
    return -x


def another(x: Tensor, rng: torch.Generator) -> Tensor:
    """White on black of a hand that is none of the subjects: turned, leaning to the right, narrow or low, thin or not, of other colours."""
    turn, lean, wide, high, thin = torch.rand(5, generator=rng).tolist()
    pale = torch.rand(x.shape[1], 1, 1, generator=rng)
    turn, lean, wide, high = turn - 0.5, 0.6 * lean, 1.0 + 0.5 * wide, 1.0 + 0.5 * high
    cos, sin = math.cos(turn), math.sin(turn)
    theta = torch.tensor([[cos, -sin], [sin, cos]]) @ torch.tensor([[wide, wide * lean], [0.0, high]])
    where = F.affine_grid(F.pad(theta, (0, 1)).expand(len(x), -1, -1), list(x.shape), align_corners=False)
    moved = F.grid_sample(x + 1, where, align_corners=False) * (0.5 + 0.5 * pale)
    return (-F.max_pool2d(-moved, 2, 1, 1)[..., :-1, :-1] if thin < 0.4 else moved) - 1


FEW = 16
"""Images of the shorter of the runs that tell a method's pace."""


@dataclass(frozen=True)
class Subject:
    """A class of one of the models, the hand that changes its pictures, and how the judge, who knows white on black, is shown them."""

    model: str
    label: str
    hand: Callable[[Tensor], Tensor] | None = None
    shown: Callable[[Tensor], Tensor] = lambda x: x


SUBJECTS = {
    "slanted 4": Subject("digits", "4", slanted),
    "negative 3": Subject("digits", "3", negative, negative),
    "Google's faces": Subject("emoji", "Smileys & Emotion"),
    "Google's flags": Subject("emoji", "Flags"),
}
"""Without a hand the subject is the class as Google draws it."""


class Model:
    """One that is taught, what judges its pictures, and pictures that it has not learned from."""

    def __init__(self, run: str, judge: str | None = None) -> None:
        self.run = Run(run)
        self.denoise, recipe = self.run.denoiser(), self.run.recipe
        self.data = sources.load(recipe)
        found = measuring.judge_of(recipe.data.name, self.data, judge)
        assert found is not None, "the data has no judge: reverie judge emoji, then --judge emoji-judge.safetensors"
        self.judge = found
        self.classes = list(self.data.classes)  # pyright: ignore[reportAttributeAccessIssue]

    def hands(self, subject: Subject, split: str) -> tuple[Tensor, Tensor]:
        """Pictures of the class in the hand, and the same in the model's own."""
        size = self.data.shape[-1]
        if subject.hand is None:
            theirs, ours = (rv.data.load(name, split, size=size) for name in ("emoji64-google", "emoji64"))  # pyright: ignore[reportArgumentType]
            return _of_class(theirs, theirs.classes.index(subject.label)), _of_class(
                ours, ours.classes.index(subject.label)
            )
        plain = _of_class(sources.load(self.run.recipe, split), self.classes.index(subject.label))  # pyright: ignore[reportArgumentType]
        return subject.hand(plain), plain


def _of_class(data: Any, label: int) -> Tensor:
    return data.batch((data.labels == label).nonzero()[:, 0]).x


class Bench:
    def __init__(
        self, digits: str, emoji: str, judge: str | None, out: Path, budget: float, pictures: int, n: int
    ) -> None:
        self.models = {"digits": Model(digits), "emoji": Model(emoji, judge)}
        self.out, self.budget, self.pictures, self.n = out, budget, pictures, n
        self.warm: set[str] = set()
        self.rows: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}

    def subject(self, name: str) -> tuple[Path, Tensor, Callable[[Tensor], Tensor]]:
        """The folder of the pictures to learn, others that nothing has seen, and what says which are of the hand, (N,) bool.

        It has learned from the training pictures in both hands; the share of held-out ones that it takes for what they are is printed.
        """
        model, subject = self.models[SUBJECTS[name].model], SUBJECTS[name]
        (hand, plain), told = model.hands(subject, "test"), model.hands(subject, "train")
        each = len(hand) // self.pictures
        mine, rest = hand[::each][: self.pictures], torch.arange(len(hand)) % each != 0
        folder = self.out / name.replace(" ", "-").replace("'", "")
        for i, picture in enumerate(mine):
            grid.save(grid.to_picture(grid.to_bytes(picture)), folder / f"{i}.png")

        def flat(*x: Tensor) -> Any:
            return torch.cat(x).flatten(1).numpy()

        classifier = LogisticRegression(C=0.01, max_iter=2_000).fit(
            flat(*told), [True] * len(told[0]) + [False] * len(told[1])
        )

        def of_hand(x: Tensor) -> Tensor:
            return torch.from_numpy(classifier.predict(flat(x)))

        right = torch.cat([of_hand(hand[rest]), ~of_hand(plain)])
        print(f"{name}: the classifier is right of {right.double().mean():.1%} of {len(right)} held-out pictures")
        return folder, hand[rest], of_hand

    def encoder(self, name: str, subject: Subject) -> Path:
        """The run of an encoder that has seen the class in other hands."""
        model, place = self.models[subject.model], self.out / f"{subject.model}-{subject.label.split()[0]}"
        hands, target = place.with_name(f"{place.name}-hands"), place.with_name(f"{place.name}-{name}")
        if not hands.exists():
            rng, partial = torch.Generator().manual_seed(0), hands.with_suffix(".partial")
            plain, ink = _of_class(model.data, model.classes.index(subject.label)), 1 if subject.hand else -1
            for i in range(HANDS):
                some = plain[torch.randperm(len(plain), generator=rng)[:EACH]]
                for k, picture in enumerate(ink * another(ink * some, rng)):
                    grid.save(grid.to_picture(grid.to_bytes(picture)), partial / f"{i:02d}" / f"{k}.png")
            partial.rename(hands)
        words = ["--base", str(model.run.folder), "--data", str(hands), "--like", subject.label, "--out", str(target)]
        seen = ["--train.images", str(SEEN), "--train.warmup", str(SEEN // 25), "--train.save-every", str(SEEN)]
        if code := reverie(["train", name, *words, *seen]):
            raise SystemExit(code)
        return target

    def affordable(self, words: list[str], target: Path) -> int:
        """Images that the budget allows, from two short runs of which one only begins; before the first of a model, one to warm up."""
        took, warm = [], words[1] in self.warm
        for images in (FEW, 5 * FEW) if warm else (FEW, FEW, 5 * FEW):
            begun = time.process_time()
            trial = target.with_name(f"{target.name}-trial-{images}")
            if code := reverie([*words, "--train.images", str(images), "--train.warmup", "1", "--out", str(trial)]):
                raise SystemExit(code)
            shutil.rmtree(trial)
            took.append(time.process_time() - begun)
        self.warm.add(words[1])
        begin, more = took[-2:]
        each = (more - begin) / (4 * FEW)
        return max(FEW, int((self.budget - begin) / each) // FEW * FEW)

    @torch.no_grad()
    def draw(self, model: Any, label: int) -> Tensor:
        return rv.sample(model, self.n, rv.Cond(label=label), seed=0, progress="drawing").cpu().clamp(-1, 1)

    def row(self, name: str, spelt: str) -> None:
        """One method on one subject, unless it is there."""
        subject = SUBJECTS[name]
        base = self.models[subject.model]
        about = {"budget": self.budget, "pictures": self.pictures, "n": self.n, "base": base.run.recipe.name}
        key, label = f"{spelt}, {name}", base.classes.index(subject.label)
        if self.rows.get(key, {}).get("about") == about:
            return
        folder, unseen, of_hand = self.subject(name)
        before = self.draw(base.denoise, label)
        facts: dict[str, float] = {"bytes": 0, "images": 0, "seconds": 0.0}
        model, token = base.denoise, label
        if spelt not in BOUNDS:
            method, *words = spelt.split()
            target = self.out / f"{folder.name}-{spelt.replace(' --', '-').replace(' ', '-')}"
            flags, images = ["--method", method, "--token", "<mine>", "--like", subject.label, *words], 0
            if method in FASTER:
                flags += ["--train.lr", str(FASTER[method] * rv.adapt.METHODS[method].rate)]
            if method in ENCODERS:
                flags = ["--encoder", str(self.encoder(method, subject)), "--token", "<mine>", *words]
            if "--no-tune" not in words:
                images = self.affordable(["adapt", str(base.run.folder), str(folder), *flags], target)
                flags += ["--train.images", str(images), "--train.warmup", str(images // 25)]
            begun = time.process_time()
            code = reverie(["adapt", str(base.run.folder), str(folder), *flags, "--out", str(target)])
            if code:
                raise SystemExit(code)
            facts |= {"seconds": round(time.process_time() - begun, 1), "images": images}
            facts["bytes"] = (target / FILE).stat().st_size
            model, token = rv.adapt.apply(base.denoise, rv.adapt.load(target)), len(base.classes)
        kept = self.draw(model, label)
        drawn = unseen if spelt == ITS else kept if spelt == ITSELF else self.draw(model, token)
        features = base.judge.features(drawn if spelt == ITSELF else subject.shown(drawn))
        mine, right = of_hand(drawn), base.judge.head(features.relu()).argmax(1) == label
        scores = {
            "subject": float(mine.double().mean()),
            "class": float(right.double().mean()),
            "both": float((mine & right).double().mean()),
            "drift": float((kept - before).square().mean().sqrt()),
            "leaked": float(of_hand(kept).double().mean() - of_hand(before).double().mean()),
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


def tables(rows: dict[str, Any]) -> str:
    """A table a model."""
    of = {name: subject.model for name, subject in SUBJECTS.items()}
    parts = {
        model: {key: row for key, row in rows.items() if of[row["name"]] == model} for model in ("digits", "emoji")
    }
    return "\n\n".join(
        f"{', '.join(n for n in of if of[n] == model)}\n\n{table(part)}" for model, part in parts.items()
    )


def figure(sheets: Path, methods: Sequence[str], out: Path) -> None:
    """Four pictures of each subject by each method, as they were drawn when they were measured."""
    from matplotlib import pyplot as plt
    from PIL import Image

    _, axes = plt.subplots(len(methods), len(SUBJECTS), figsize=(11, 0.62 * len(methods) + 0.3), squeeze=False)
    for row, method in zip(axes, methods, strict=True):
        for ax, name in zip(row, SUBJECTS, strict=True):
            sheet = Image.open(sheets / f"{method}, {name}.png")
            ax.imshow(sheet.crop((0, 0, sheet.width // 2, sheet.height // 2)), cmap="gray")
            ax.set(xticks=[], yticks=[])
            ax.set_frame_on(False)
        row[0].set_ylabel(method, rotation=0, ha="right", va="center")
    for ax, name in zip(axes[0], SUBJECTS, strict=True):
        ax.set_title(name, fontsize=10)
    plt.savefig(out, bbox_inches="tight", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("digits")
    parser.add_argument("emoji")
    parser.add_argument("out", type=Path)
    parser.add_argument("--judge", help="of emoji")
    parser.add_argument("--budget", type=float, default=60.0)
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--n", type=int, default=100)
    given = parser.parse_args()
    bench = Bench(given.digits, given.emoji, given.judge, given.out, given.budget, given.pictures, given.n)
    for name in SUBJECTS:
        for spelt in (*BOUNDS, *given.methods):
            bench.row(name, spelt)
    print(tables(bench.rows))
    figure(bench.out / "sheets", [*BOUNDS, *given.methods], STATIC / "adapt.png")


if __name__ == "__main__":
    main()
