"""Measure the samples of a run and keep the result in it."""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote
from typing import Any

import torch

from reverie.core.errors import InputError, RunError
from reverie.core.files import write
from reverie.core.memory import afford
from reverie.data import ImageSet
from reverie.learn import grid
from reverie.measure import judge as judges
from reverie.measure.evaluation import evaluate
from reverie.measure.extract import EfficientNetLite0, FeatureExtractor
from reverie.measure.figures import Evaluation
from reverie.measure.pictures import sheet
from reverie.recipes import sources
from reverie.recipes.runs import Run

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
    batch_size: int = 250,
) -> Evaluation:
    """Measure a run against the held-out split of its data, see :func:`reverie.measure.evaluate`.

    Writes ``evaluation.json``, which keeps the newest measurement of each setting, the samples of the first seed
    (``samples/evaluation.png``) and those closest to training pictures above these (``samples/closest.png``).

    Args:
        run: what to measure; the averaged weights of its checkpoint.
        sample: how samples are drawn, an instance of the task's ``Sample``; as its recipe says by default.
        n: samples per seed.
        seeds: figures are means over them.
        judge: a bundled judge, the file of one or the folder of a run that trained one; the bundled judge of the data by default. Without
            one, features are EfficientNet-Lite0's and no accuracy is measured.
        batch_size: samples drawn at a time.

    Raises:
        InputError: if the data has no held-out pictures, or there is neither a judge nor EfficientNet-Lite0.
    """
    recipe = run.recipe
    pictures, closest, figures = (run.path(name) for name in ("samples/evaluation.png", CLOSEST, EVALUATION))
    train, held_out = (sources.load(recipe, split) for split in ("train", "test"))
    afford(4 * n * math.prod(train.shape), f"n {n}", "choose fewer, and more seeds")
    if not len(held_out):
        raise InputError(f"{train.name} holds out no pictures to compare samples with: add pictures")
    looks = extractor(recipe.data.name, train, judge)
    generator = run.generator(sample)
    evaluation, drawn = evaluate(generator, train, held_out, looks, n=n, seeds=seeds, batch_size=batch_size)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    evaluation = replace(evaluation, date=now, images=run.checkpoint.state["images"])
    grid.save(sheet(drawn.images, COLUMNS), pictures)
    grid.save(sheet(torch.cat([drawn.closest, drawn.neighbours]), len(drawn.closest)), closest)
    earlier: list[Evaluation] = []
    with suppress(RunError):  # damaged: measured anew
        earlier = Evaluation.load_all(figures) if figures.exists() else []
    write(figures, evaluation.to_json(earlier))
    return evaluation


def extractor(name: str, data: ImageSet, judge: str | Path | None) -> FeatureExtractor:
    """What pictures of a data set are looked at by: the judge that was given, the bundled one of the data, or EfficientNet-Lite0.

    Raises:
        InputError: when there is none.
    """
    if judge is not None:
        return Run(judge).open() if (Path(judge) / "recipe.yaml").is_file() else judges.load(judge)
    if (judges.FOLDER / f"{name}.safetensors").is_file():
        bundled = judges.load(name)
        if (bundled.channels, *bundled.size) == data.shape:
            return bundled
    try:
        return EfficientNetLite0()
    except InputError as error:
        raise InputError(
            f"there is no judge of {data.name} pictures of shape {data.shape}: `reverie judge {quote(name)}` trains one, and "
            f"`reverie evaluate` takes it as --judge; or measure in general features; {error}"
        ) from error
