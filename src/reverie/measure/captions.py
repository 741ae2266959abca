"""Measure whether a model draws what captions say: samples of held-out captions, between real pictures of them and controls.

Above the samples is what the very pictures that the captions are of reach with the same picture-text model; below them is what looking up
the training picture of the nearest caption reaches, what the samples reach with captions of others, and chance. A figure is worth what lies
between.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reverie.core.batch import Dataset
from reverie.core.condition import Cond
from reverie.core.errors import InputError, RunError
from reverie.core.files import write
from reverie.core.generator import Generator
from reverie.core.noise import normals
from reverie.core.progress import Progress
from reverie.data.captions import unheard
from reverie.learn.grid import to_bytes
from reverie.measure.figures import percent
from reverie.measure.pictures import from_bytes
from reverie.measure.retrieval import AMONG, Matched, PictureText, matched

FILE = "captions.json"
"""Where a run keeps them."""
ROWS = {
    "samples": "samples",
    "real": "real pictures of these captions",
    "lookup": "pictures of nearest captions",
    "shuffled": "samples, captions shuffled",
    "chance": "chance",
}


@dataclass(frozen=True, kw_only=True)
class CaptionScores:
    """How well samples show the captions that they were drawn by.

    Attributes:
        by, seen: the picture-text model, and in words which pictures it was trained on.
        own: whether these are pictures that the measured model was trained on, which flatters it.
        data, split: of the captions and the real pictures.
        count: captions, each drawn once a seed.
        among: of how many that differ a picture is to find its own.
        new: of the captions those that no training picture has.
        seeds: of samples; figures are means over them.
        rows: by a key of :data:`ROWS` the CLIPScore (None by chance), and the shares found at 1 and at 5.
        settings: how the samples were drawn, as the generator says.
        date: the time (ISO 8601).
        images: what the model had seen.
    """

    by: str
    seen: str
    own: bool
    data: str
    split: str
    count: int
    among: int
    new: int
    seeds: tuple[int, ...]
    rows: Mapping[str, tuple[float | None, float, float]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    date: str = ""
    images: int | None = None

    @property
    def heads(self) -> tuple[str, str, str]:
        """Titles of the figures. Only in CLIP's own embeddings is the first called CLIPScore."""
        score = "CLIPScore" if self.by.startswith("clip-") else "picture-text score"
        return score, f"caption nearest of {self.among}", "among the 5 nearest"

    @property
    def table(self) -> list[tuple[str, str, str, str]]:
        """Rows as they are printed."""
        return [
            (ROWS[of], "" if score is None else f"{score:.3f}", percent(at_one), percent(at_five))
            for of, (score, at_one, at_five) in self.rows.items()
        ]

    @property
    def how(self) -> str:
        """How the figures were taken, in words."""
        drawn = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        own = (
            " They are pictures that this model learned from too, which flatters it: train one on others."
            if self.own
            else ""
        )
        return (
            f"Samples of {self.count:,} captions of the {self.split} split of {self.data}, {self.new:,} of which no training picture has, "
            f"for each of the seeds {', '.join(map(str, self.seeds))}, drawn with {drawn or 'its own way'}. {self.by} has seen "
            f"{self.seen}.{own}"
        )

    @property
    def key(self) -> tuple[Any, ...]:
        """What another measurement has alike that takes this one's place."""
        return self.by, self.data, self.split, self.count, self.seeds, dict(self.settings)

    def save(self, path: Path) -> None:
        """Write it to a file, above what that keeps of other models and settings."""
        earlier: list[CaptionScores] = []
        with suppress(RunError):  # damaged: measured anew
            earlier = self.load_all(path)
        kept = [self, *(other for other in earlier if other.key != self.key)]
        write(path, json.dumps([asdict(each) for each in kept], indent=1, ensure_ascii=False))

    @classmethod
    def load_all(cls, path: Path) -> list["CaptionScores"]:
        """What a file keeps, the newest first; nothing if there is none.

        Raises:
            RunError: if it cannot be read.
        """
        try:
            records = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
            return [
                cls(
                    **{
                        **record,
                        "seeds": tuple(record["seeds"]),
                        "rows": {of: tuple(row) for of, row in record["rows"].items()},
                    }
                )
                for record in records
            ]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"cannot read {path}: {error}. Run reverie evaluate --score again.") from error


@torch.no_grad()
def caption_scores(
    generator: Generator,
    condition: Callable[[Sequence[str]], Cond],
    looks: PictureText,
    held_out: Dataset,
    captions: Sequence[str],
    trained: Sequence[str],
    known: Dataset | None = None,
    *,
    split: str = "test",
    n: int = 1000,
    seeds: Sequence[int] = (0, 1, 2),
    batch_size: int = 250,
) -> CaptionScores:
    """Draw a sample of each caption, and score samples, real pictures and controls.

    Args:
        generator: what draws.
        condition: what it is told of captions.
        looks: the picture-text model.
        held_out: the real pictures.
        captions: one for each, "" where there is none.
        trained: those of the pictures that the generator was trained on.
        known: these pictures, among which captions that are not theirs are looked up; None for captions that are.
        split: what ``held_out`` is of its data set.
        n: captions at most; which ones is a function of their number.
        seeds: figures are means over them.
        batch_size: samples drawn at a time.

    Raises:
        InputError: for no seeds, or fewer than two captions that differ.
        RunError: if a sample is not a number.
    """
    if not seeds or len(set(captions) - {""}) < 2:
        raise InputError(
            f"measuring captions takes at least one seed and two captions that differ: got {len(seeds)} seeds and "
            f"{len(set(captions) - {''})} captions of {held_out.name}"
        )
    there = torch.tensor([i for i, caption in enumerate(captions) if caption], dtype=torch.int64)
    chosen = there[torch.from_numpy(normals("measure/captions", len(there))).argsort()[:n].sort().values]
    said = [captions[int(i)] for i in chosen]
    pictures = held_out.batch(chosen).x
    others = shuffled(said)
    found: dict[str, list[Matched]] = {of: [] for of in ROWS if of != "chance" and (known or of != "lookup")}
    nearest = None if known is None else known.batch(looked_up(looks, said, trained)).x
    with Progress("sampling captions", len(said) * len(seeds), "pictures") as progress:
        for seed in seeds:
            parts = []
            for rows in torch.arange(len(said)).split(batch_size):
                told = condition([said[i] for i in rows.tolist()])
                images = generator.sample(len(rows), told, seed=[(seed, i) for i in rows.tolist()])
                if images.isnan().any():
                    raise RunError("the samples contain NaN: the model has diverged; use an earlier checkpoint")
                parts.append(from_bytes(to_bytes(images)))
                progress.advance(len(rows))
            drawn = torch.cat(parts)
            found["samples"].append(matched(looks, drawn, said, seed=seed))
            found["real"].append(matched(looks, pictures, said, seed=seed))
            found["shuffled"].append(matched(looks, drawn, others, seed=seed))
            if nearest is not None:
                found["lookup"].append(matched(looks, nearest, said, seed=seed))
    among = min(AMONG, len(set(said)))
    means = {of: torch.tensor(each, dtype=torch.float64).mean(0).tolist() for of, each in found.items()}
    return CaptionScores(
        by=looks.name,
        seen=looks.seen,
        own=looks.data == held_out.name,
        data=held_out.name,
        split=split,
        count=len(said),
        among=among,
        new=len(unheard(trained, said)),
        seeds=tuple(seeds),
        rows={**{of: (a, b, c) for of, (a, b, c) in means.items()}, "chance": (None, 1 / among, min(1.0, 5 / among))},
        settings=generator.settings(),
    )


def looked_up(looks: PictureText, said: Sequence[str], trained: Sequence[str], chunk: int = 250) -> Tensor:
    """The rows (N,) of the captions among ``trained`` whose vectors lie nearest; pictures without a caption are no answer."""
    rows = [i for i, caption in enumerate(trained) if caption]
    parts = [looks.texts([trained[i] for i in rows[at : at + chunk]]) for at in range(0, len(rows), chunk)]
    near = (looks.texts(said) @ torch.cat(parts).T).argmax(1).cpu()
    return torch.tensor(rows)[near]


def shuffled(captions: Sequence[str]) -> list[str]:
    """The captions in an order in which none stands in its own place, as far as no caption is that of more than half of them."""
    different = sorted(set(captions))
    place = dict(zip(different, normals("measure/shuffled", len(different)).tolist(), strict=True))
    order = sorted(range(len(captions)), key=lambda i: place[captions[i]])
    most = max(map(list(captions).count, different))
    turned = {i: order[(k + most) % len(order)] for k, i in enumerate(order)}
    return [captions[turned[i]] for i in range(len(captions))]
