"""Measure the samples of a run and keep the result in it."""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote
from typing import Any, Literal

import torch
from torch import nn

from reverie.core import processes
from reverie.core.conditioner import Conditioner, conditioner_of
from reverie.core.errors import InputError, RunError
from reverie.core.files import write
from reverie.core.memory import afford
from reverie.data import ImageSet
from reverie.learn import grid
from reverie.measure import judge as judges
from reverie.measure.captions import FILE, CaptionScores, caption_scores
from reverie.measure.clip import CLIP, is_clip
from reverie.measure.density import outliers
from reverie.measure.evaluation import evaluate
from reverie.measure.extract import EfficientNetLite0, FeatureExtractor
from reverie.measure.figures import Evaluation, Outliers
from reverie.measure.inception import EXPECTED, Inception
from reverie.measure.judge import Judge
from reverie.measure.pictures import sheet
from reverie.measure.retrieval import PictureText
from reverie.measure.statistics import Statistics
from reverie.recipes import sources
from reverie.recipes.runs import Run
from reverie.recipes.telling import told

EVALUATION = "evaluation.json"
CLOSEST = "samples/closest.png"
COLUMNS = 40


def measure(
    run: Run,
    sample: Any = None,
    *,
    n: int = 1000,
    seeds: Sequence[int] = (0, 1, 2),
    judge: str | Path | None = None,
    features: str | None = None,
    reference: str | Path | None = None,
    write_statistics: str | Path | None = None,
    batch_size: int = 250,
) -> Evaluation:
    """Measure a run against the held-out split of its data, see :func:`reverie.measure.evaluate`.

    Writes ``evaluation.json``, which keeps the newest measurement of each setting, the samples of the first seed
    (``samples/evaluation.png``) and those closest to training pictures above these (``samples/closest.png``). Processes that have joined a
    group draw the samples together, and the first one writes.

    Args:
        run: what to measure; the averaged weights of its checkpoint.
        sample: how samples are drawn, an instance of the task's ``Sample``; as its recipe says by default.
        n: samples per seed.
        seeds: figures are means over them.
        judge: a bundled judge, the file of one or the folder of a run that trained one; the bundled judge of the data by default. Without
            one, features are EfficientNet-Lite0's and no accuracy is measured.
        features: an extractor in place of the judge's features: ``inception:PATH``, with :class:`reverie.measure.inception.Inception`'s
            weights. The judge still says which class a sample shows.
        reference: a file of statistics to which a Fréchet distance is taken besides, see :mod:`reverie.measure.statistics`.
        write_statistics: where to write the statistics of all training pictures; they are the reference if none is given.
        batch_size: samples drawn at a time.

    Raises:
        InputError: if the data has no held-out pictures, there is neither a judge nor EfficientNet-Lite0, or a file does not fit.
    """
    recipe = run.recipe
    pictures, closest, figures = (run.path(name) for name in ("samples/evaluation.png", CLOSEST, EVALUATION))
    train, held_out = (sources.load(recipe, split) for split in ("train", "test"))
    channels = train.channels + (0 if train.layout is None else train.layout.channels)
    afford(4 * n * channels * math.prod(train.shape[1:]), f"n {n}", "choose fewer, and more seeds")
    if not len(held_out):
        raise InputError(f"{train.name} holds out no pictures to compare samples with: add pictures")
    looks = extractor(recipe.data.name, train, judge) if features is None else named(features)
    judged_by = None if features is None else judge_of(recipe.data.name, train, judge)
    statistics = _statistics(looks, train, run, reference, write_statistics)
    generator = run.generator(sample)
    rank, world = processes.standing()
    if world > 1:
        generator = processes.Shared(generator)
    evaluation, drawn = evaluate(
        generator,
        train,
        held_out,
        looks,
        told=told(generator, held_out, (i % len(held_out) for i in range(n))),
        judge=judged_by,
        statistics=statistics,
        n=n,
        seeds=seeds,
        batch_size=batch_size,
    )
    now = datetime.now(UTC).isoformat(timespec="seconds")
    evaluation = replace(evaluation, date=now, images=run.checkpoint.state["images"])
    if rank > 0:
        return evaluation
    grid.save(sheet(drawn.images, COLUMNS), pictures)
    grid.save(sheet(torch.cat([drawn.closest, drawn.neighbours]), len(drawn.closest)), closest)
    earlier: list[Evaluation] = []
    strange: list[Outliers] = []
    with suppress(RunError):  # damaged: measured anew
        if figures.exists():
            earlier, strange = Evaluation.load_all(figures), Outliers.load_all(figures)
    write(figures, evaluation.to_json(earlier, strange))
    return evaluation


def tell_apart(run: Run, others: str, *, n: int = 1000, batch_size: int = 100) -> Outliers:
    """How well a run's density tells held-out pictures of its data from other pictures, see :mod:`reverie.measure.density`.

    Writes it into ``evaluation.json``, in place of what is there of the same pictures.

    Args:
        run: of a model with a density, or a bound on it.
        others: a data set or folder of pictures, brought to the run's size and colours. All of them are taken, of the run's own data the
            held-out ones.
        n: pictures of each, at most.
        batch_size: pictures at a time.

    Raises:
        InputError: for a model without a density, or data that is not there.
        RunError: when ``evaluation.json`` is damaged.
    """
    held_out, other = sources.load(run.recipe, "test"), sources.other(run.recipe, others)
    afford(4 * n * math.prod(held_out.shape), f"n {n}", "choose fewer")
    unlabelled = run.recipe.task.unlabelled
    found = outliers(run.generator(), held_out, other, unlabelled=unlabelled, n=n, batch_size=batch_size)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    found = replace(found, date=now, images=run.checkpoint.state["images"])
    path = run.path(EVALUATION)
    write(path, found.to_json(path))
    return found


def match(
    run: Run,
    score: str | Path,
    sample: Any = None,
    *,
    split: Literal["test", "train"] = "test",
    n: int = 1000,
    seeds: Sequence[int] = (0, 1, 2),
    batch_size: int = 250,
) -> CaptionScores:
    """How well a run draws the captions of held-out pictures, or of those it was trained on, see :func:`reverie.measure.caption_scores`.

    A model that takes no text but a class is told the classes of the pictures, whose names are the captions. Writes it into
    ``captions.json``.

    Args:
        run: what to measure.
        score: a run of the task ``towers``, or a folder of transformers with a CLIP.
        split: of the run's pictures.
        sample, n, seeds, batch_size: as of :func:`measure`.

    Raises:
        InputError: for a model that takes neither text nor a class, or data without captions.
    """
    train, asked = (sources.load(run.recipe, each) for each in ("train", split))
    generator, looks = run.generator(sample), scorer(score, run.device)
    captions, trained = _said(asked), _said(train)
    if not {"text", "label"} & set(generator.conditions) or captions is None or trained is None:
        raise InputError(
            f"--score asks whether captions are drawn, and {run.folder} draws by {', '.join(generator.conditions) or 'nothing'}: train a "
            "model that is told captions or classes"
        )
    reads = "text" in generator.conditions
    found = caption_scores(
        generator,
        conditioner_of(generator) if reads else Conditioner(generator.conditions, run.spec.classes),
        looks,
        asked,
        captions,
        trained,
        train if split == "test" else None,
        split=split,
        n=n,
        seeds=seeds,
        batch_size=batch_size,
    )
    now = datetime.now(UTC).isoformat(timespec="seconds")
    found = replace(found, date=now, images=run.checkpoint.state["images"])
    found.save(run.path(FILE))
    return found


def scorer(score: str | Path, device: torch.device | str | None = None) -> PictureText:
    """The picture-text model of a run, or transformers' CLIP of a folder.

    Raises:
        InputError: when there is neither.
    """
    if is_clip(Path(score).expanduser()):
        return CLIP(score).to(device)
    opened = Run(score, device).open()
    if not isinstance(opened, PictureText):
        raise InputError(
            f"{score} is no picture-text model, but a {type(opened).__name__}: train one with `reverie train towers --data DATA`, or "
            "give a folder of transformers with a CLIP"
        )
    return opened


def _said(images: ImageSet) -> list[str] | None:
    """What each picture is called, or the name of its class; None where it has neither."""
    if images.captions is not None:
        return [images.captions.say(row) for row in range(len(images))]
    return None if images.labels is None else [images.classes[label] for label in images.labels.tolist()]


def extractor(name: str, data: ImageSet, judge: str | Path | None) -> FeatureExtractor:
    """What pictures of a data set are looked at by: the judge that was given, the bundled one of the data, or EfficientNet-Lite0.

    Raises:
        InputError: when there is none.
    """
    if (found := judge_of(name, data, judge)) is not None:
        return found
    try:
        return EfficientNetLite0()
    except InputError as error:
        raise InputError(
            f"there is no judge of {data.name} pictures of shape {data.shape}: `reverie judge {quote(name)}` trains one, and "
            f"`reverie evaluate` takes it as --judge; or measure in general features; {error}"
        ) from error


def judge_of(name: str, data: ImageSet, judge: str | Path | None) -> Judge | None:
    """The judge that was given, or the bundled one of the data; None when there is none."""
    if judge is not None:
        return Run(judge).open() if (Path(judge) / "recipe.yaml").is_file() else judges.load(judge)
    if (judges.FOLDER / f"{name}.safetensors").is_file():
        bundled = judges.load(name)
        if (bundled.channels, *bundled.size) == data.shape:
            return bundled
    return None


def named(extractor: str) -> FeatureExtractor:
    """The extractor of that name.

    Raises:
        InputError: for an unknown one, or as :class:`reverie.measure.inception.Inception`.
    """
    kind, _, weights = extractor.partition(":")
    if kind != "inception" or not weights:
        raise InputError(
            f"unknown extractor {extractor!r}: there is inception:PATH, or none for the judge's features or EfficientNet-Lite0's; "
            f"for PATH {EXPECTED}"
        )
    return Inception(weights)


def _statistics(
    looks: FeatureExtractor, train: ImageSet, run: Run, read: str | Path | None, written: str | Path | None
) -> Statistics | None:
    """The reference that was given, or the one that was to be written; that is written."""
    if isinstance(looks, nn.Module):
        looks.to(run.device or "cpu")
    reference = None if read is None else Statistics.load(Path(read), looks)
    if written is None:
        return reference
    if Path(written).suffix != ".npz":
        raise InputError(f"statistics are written to an npz file: got {written}; call it {Path(written).stem}.npz")
    Statistics.of(train, looks).save(Path(written))
    return reference or Statistics.load(Path(written), looks)
