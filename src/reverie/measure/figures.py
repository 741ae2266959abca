"""What a measurement says, and everything needed to take it again: JSON in ``evaluation.json`` of a run."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from reverie.core.errors import RunError
from reverie.measure.neighbours import Memorisation

TITLES = {
    "accuracy": "Class accuracy",
    "frechet": "Fréchet distance",
    "frechet_ratio": "Fréchet ratio to training pictures",
    "kernel": "Kernel distance",
    "kernel_share": "Kernel distance, of that of noise",
    "frechet_reference": "Fréchet distance to the reference",
    "precision": "Precision",
    "recall": "Recall",
}
SUBJECTS = {"samples": "samples", "training": "training pictures", "blurred": "the same, blurred", "noise": "noise"}
FRACTIONS = {"accuracy", "precision", "recall", "kernel_share"}
VERSION = 2
FID_EXTRACTOR = "inception-2015-12-05"
"""The one extractor whose Fréchet distance is called FID."""
FID_COUNT = 50_000
"""Samples that papers take for it."""


def percent(value: float) -> str:
    """``98.3 %``, not to be broken; what rounds to nothing has no sign."""
    return f"{100 * value:z.1f}\N{NO-BREAK SPACE}%".replace("-", "−")


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured value and how it was taken.

    Attributes:
        measure: a key of :data:`TITLES`.
        of: what was measured: ``samples``, or a control: ``training`` or ``blurred`` pictures, or ``noise``.
        value: the mean of ``each``.
        each: one value a seed; for a control the seed chooses the training pictures.
        seeds: the seeds.
        count: pictures measured per seed.
        data, split, reference: what they are compared with: data set, split and how many pictures. Of ``frechet_reference`` the name of a
            file of statistics, ``statistics`` and the first digits of its SHA-256, and 0 pictures if it does not say.
        extractor: whose features, or whose judgement; None where neither matters.
        settings: how the samples were drawn, as the generator says; empty for controls.
    """

    measure: str
    of: str
    value: float
    each: tuple[float, ...]
    seeds: tuple[int, ...]
    count: int
    data: str
    split: str
    reference: int
    extractor: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What to call it. A Fréchet distance is called FID only in the features of the published Inception."""
        if self.measure not in ("frechet", "frechet_reference"):
            return TITLES[self.measure]
        distance = "FID" if self.extractor == FID_EXTRACTOR else TITLES["frechet"]
        return distance if self.measure == "frechet" else f"{distance} to {self.data}"

    @property
    def text(self) -> str:
        """The value as it is printed."""
        return self.format(self.value)

    @property
    def spread(self) -> str:
        """The smallest and largest value of a seed, as printed; empty if they are printed alike."""
        low, high = self.format(min(self.each)), self.format(max(self.each))
        return "" if low == high else f"{low.removesuffix(percent(0)[-2:])} – {high}"

    def format(self, value: float) -> str:
        """A value of this measure as it is printed."""
        if self.measure in FRACTIONS:
            return percent(value)
        if self.measure == "frechet_ratio":
            return f"{value:.2f}"
        return (f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}").replace("-", "−")


@dataclass(frozen=True, kw_only=True)
class Closest:
    """A sample that lies close to a training picture: its label, the picture's index in the training split, distance and ratio."""

    label: int | None
    index: int
    distance: float
    ratio: float


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All figures of a model, whether it copies (``memorisation`` of samples and of a copier), and the samples closest to training.

    ``dims`` is the number of features that distances are taken in, ``date`` the time (ISO 8601), ``images`` what the model had seen.
    """

    figures: tuple[Figure, ...]
    memorisation: dict[str, Memorisation]
    closest: tuple[Closest, ...]
    seconds: float
    dims: int = 0
    date: str = ""
    images: int | None = None

    @property
    def drawn(self) -> Mapping[str, Any]:
        """How its samples were drawn, as the generator says."""
        return next((f.settings for f in self.figures if f.of == "samples"), {})

    @property
    def settings(self) -> str:
        """What another measurement has alike that takes this one's place, as JSON."""
        taken = [f for f in self.figures if f.of == "samples"]
        return json.dumps([[f.measure, f.seeds, f.count, f.data, f.extractor, f.settings] for f in taken])

    def figure(self, measure: str, of: str = "samples") -> Figure | None:
        """The figure with that name, or None if it was not taken."""
        return next((f for f in self.figures if f.measure == measure and f.of == of), None)

    def tells(self, measure: str) -> bool:
        """Whether a measure tells noise from pictures here, by its controls: one that does not praises anything.

        A distance does where that of noise is twice that of training pictures and beyond the spread of these; a share of good pictures
        where noise has a quarter less of them.
        """
        real, noise = self.figure(measure, "training"), self.figure(measure, "noise")
        if real is None or noise is None:
            return True
        if measure in ("accuracy", "precision", "recall"):
            return noise.value <= real.value - 0.25
        spread = max(real.each) - min(real.each)
        return noise.value >= max(2.0 * real.value, real.value + 2.0 * spread, 1e-9)

    @property
    def headline(self) -> list[Figure]:
        """What a report begins with: the class accuracy and the distance that is taken here, as far as they tell noise from pictures."""
        distance = "frechet_ratio" if self.figure("frechet_ratio") else "kernel_share"
        found = (self.figure(measure) for measure in ("accuracy", distance) if self.tells(measure))
        return [figure for figure in found if figure is not None]

    @property
    def warnings(self) -> list[str]:
        """What these figures cannot say, in sentences."""
        said = []
        if self.figure("frechet") is None:
            f = self.figures[0]
            said.append(
                f"There is no Fréchet distance to held-out pictures: {min(f.count, f.reference):,} are fewer than it takes in "
                f"{self.dims:,} features. The kernel distance serves any number; more held-out pictures make it surer."
            )
        blind = [TITLES[m].lower() for m in dict.fromkeys(f.measure for f in self.figures) if not self.tells(m)]
        if blind:
            said.append(f"With so few pictures {', '.join(blind)} cannot tell noise from pictures: do not go by it.")
        fid = next((f for f in self.figures if f.title.startswith("FID")), None)
        if fid is not None and fid.count < FID_COUNT:
            said.append(f"With {fid.count:,} samples FID is higher than with the {FID_COUNT:,} that papers take.")
        return said

    @property
    def subjects(self) -> list[str]:
        """What was measured: samples first, then the controls."""
        return list(dict.fromkeys(f.of for f in self.figures))

    @property
    def how(self) -> str:
        """How the figures were taken, in words."""
        f = self.figures[0]
        drawn = ", ".join(
            f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in f.settings.items()
        )
        several = len(f.seeds) > 1
        of, means = ("for each of the seeds", " Figures are means over the seeds.") if several else ("of the seed", "")
        how = [
            f"{f.count:,} samples {of} {', '.join(map(str, f.seeds))}",
            f"drawn with {drawn}" if drawn else "drawn",
            f"against the {f.reference:,} pictures of the {f.split} split of {f.data}",
        ]
        judged = self.figure("accuracy")
        by = "" if judged is None else f"; classes are judged by {judged.extractor}"
        features = next(f.extractor for f in self.figures if f.measure == "kernel")
        to = self.figure("frechet_reference")
        known = "" if to is None or not to.reference else f" of {to.reference:,} pictures"
        file = "" if to is None else f" {to.title} is the distance to the {to.split}{known}."
        return f"{', '.join(how)}.{means} Distances are taken in the features of {features}{by}.{file}"

    @property
    def verdict(self) -> str:
        """Whether the samples are copies, in words."""
        m = self.memorisation["samples"]
        found = f"{percent(m.copies)} of {m.samples:,} samples are copies of training pictures"
        usual = f"against {percent(m.held_out_copies)} of held-out pictures"
        return f"{found}, {usual}: {'the model copies its training data' if m.flagged else 'no sign of copying'}."

    def to_json(self, earlier: Sequence["Evaluation"] = (), outliers: Sequence["Outliers"] = ()) -> str:
        """The text of ``evaluation.json``: this measurement, and ``earlier`` ones of other settings, the newest first."""
        return _to_json([self, *(other for other in earlier if other.settings != self.settings)], outliers)

    @classmethod
    def load(cls, path: Path) -> "Evaluation | None":
        """The newest measurement of ``evaluation.json``, None if it keeps none.

        Raises:
            RunError: if it cannot be read, or another version wrote it.
        """
        return next(iter(cls.load_all(path)), None)

    @classmethod
    def load_all(cls, path: Path) -> list["Evaluation"]:
        """All that ``evaluation.json`` keeps, one for each way to draw and to measure, the newest first.

        Raises:
            RunError: as :meth:`load`.
        """
        return _load(path)[0]

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> "Evaluation":
        """What a file says of one measurement."""
        return cls(
            figures=tuple(Figure(**_tuples(f)) for f in content["figures"]),
            memorisation={of: Memorisation(**_tuples(m)) for of, m in content["memorisation"].items()},
            closest=tuple(Closest(**c) for c in content["closest"]),
            seconds=content["seconds"],
            dims=content.get("dims", 0),
            date=content.get("date", ""),
            images=content.get("images"),
        )


@dataclass(frozen=True, kw_only=True)
class Outliers:
    """Whether a model's density tells other pictures from held-out ones of its own data.

    Attributes:
        data, split, count: the other pictures.
        own, reference: the model's own data, and how many held-out pictures of it.
        density: area under the ROC of the log density, the held-out pictures being the positives: the share of pairs in which the held-out
            one is the likelier. 1 tells them apart, ½ is chance, and below ½ the others look likelier.
        complexity: the same of the shorter of lossless files in place of the density, the shorter the likelier.
        corrected: the same of the log density and the bits of the file together.
        bits, other_bits: mean bits a dimension of the held-out pictures and of the others.
        file_bits, other_file_bits: the same of the shorter of their lossless files.
        bound: whether the density is a lower bound on it.
        date: the time (ISO 8601).
        images: what the model had seen.
    """

    data: str
    split: str
    count: int
    own: str
    reference: int
    density: float
    complexity: float
    corrected: float
    bits: float
    other_bits: float
    file_bits: float
    other_file_bits: float
    bound: bool
    date: str = ""
    images: int | None = None

    @property
    def rows(self) -> list[tuple[str, str]]:
        """The areas by what they are of, as they are printed."""
        name = "a bound on the log density" if self.bound else "the log density"
        return [
            (name, f"{self.density:.3f}"),
            ("the size of a lossless file, the smaller the likelier", f"{self.complexity:.3f}"),
            ("both together", f"{self.corrected:.3f}"),
        ]

    @property
    def how(self) -> str:
        """What was measured, and what it means, in words."""
        most = "at most " if self.bound else ""
        who = (
            "the others look likelier to the model than its own"
            if self.density < 0.5
            else "its own look likelier to the model"
        )
        return (
            f"Area under the ROC of {self.reference:,} held-out pictures of {self.own} against {self.count:,} of {self.data}, {most}"
            f"{self.bits:.2f} bits a dimension against {most}{self.other_bits:.2f} (files: {self.file_bits:.2f} against "
            f"{self.other_file_bits:.2f}): {who}. 1 tells all of them apart, 0.5 is chance."
        )

    def to_json(self, path: Path) -> str:
        """The text of ``evaluation.json`` with this in place of what is there of the same data.

        Raises:
            RunError: as :meth:`Evaluation.load`.
        """
        evaluations, outliers = _load(path) if path.exists() else ([], [])
        return _to_json(evaluations, [self, *(other for other in outliers if other.data != self.data)])

    @classmethod
    def load_all(cls, path: Path) -> list["Outliers"]:
        """Those that ``evaluation.json`` keeps, one for each data set, the newest first.

        Raises:
            RunError: as :meth:`Evaluation.load`.
        """
        return _load(path)[1]


def _to_json(evaluations: Sequence[Evaluation], outliers: Sequence[Outliers]) -> str:
    first = asdict(evaluations[0]) if evaluations else {}
    kept = {"earlier": [asdict(e) for e in evaluations[1:]], "outliers": [asdict(o) for o in outliers]}
    return json.dumps({"version": VERSION, **first, **kept}, indent=1, ensure_ascii=False)


def _load(path: Path) -> tuple[list[Evaluation], list[Outliers]]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] not in (1, VERSION):
            raise ValueError(f"it has version {content['version']}, this Reverie reads {VERSION}")
        outliers = [Outliers(**record) for record in content.get("outliers", [])]
        if outliers and "figures" not in content:
            return [], outliers
        figures = map(_settings, content["figures"]) if content["version"] == 1 else content["figures"]
        evaluations = [{**content, "figures": figures}, *content.get("earlier", [])]
        return [Evaluation.read(each) for each in evaluations], outliers
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"cannot read {path}: {error}. Run reverie evaluate again.") from error


def _settings(record: dict[str, Any]) -> dict[str, Any]:
    """A figure of version 1, which knew denoisers only."""
    known = ("solver", "grid", "steps", "guidance", "interval")
    settings = {name: record.pop(name) for name in known if name in record}
    return {**record, "settings": {name: value for name, value in settings.items() if value is not None}}


def _tuples(record: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in record.items()}
