"""Measure the samples of a run and keep the result in it."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from reverie.core.errors import InputError
from reverie.core.files import write
from reverie.core.memory import afford
from reverie.data import ImageSet
from reverie.learn import grid
from reverie.measure import judge as judges
from reverie.measure.evaluation import evaluate
from reverie.measure.extract import EfficientNetLite0, FeatureExtractor
from reverie.measure.figures import Evaluation
from reverie.measure.pictures import sheet
from reverie.recipes import building
from reverie.recipes.recipe import Recipe, SampleConfig
from reverie.recipes.runs import Run

EVALUATION = "evaluation.json"
CLOSEST = "samples/closest.png"
COLUMNS = 40


def settings(recipe: Recipe) -> SampleConfig:
    """How a recipe's samples are drawn; without guidance if labels were never dropped in training."""
    return replace(recipe.sample, scale=1.0) if recipe.denoising.drop == 0.0 else recipe.sample


def measure(
    run: Run,
    config: SampleConfig | None = None,
    *,
    n: int = 1000,
    seeds: Sequence[int] = (0, 1, 2),
    judge: str | Path | None = None,
    batch_size: int = 250,
) -> Evaluation:
    """Measure a run against the held-out split of its data, see :func:`reverie.measure.evaluate`.

    Writes ``evaluation.json``, the samples of the first seed (``samples/evaluation.png``) and those closest to training pictures above
    these (``samples/closest.png``).

    Args:
        run: what to measure; the averaged weights of its checkpoint.
        config: how samples are drawn; as its recipe says by default.
        n: samples per seed.
        seeds: figures are means over them.
        judge: a bundled judge or the file of one; the bundled judge of the data by default. Without one, features are EfficientNet-Lite0's
            and no accuracy is measured.
        batch_size: samples drawn at a time.

    Raises:
        InputError: if the data has no held-out pictures, or there is neither a judge nor EfficientNet-Lite0.
    """
    recipe = run.recipe
    pictures, closest, figures = (run.path(name) for name in ("samples/evaluation.png", CLOSEST, EVALUATION))
    config = config or settings(recipe)
    train, held_out = (building.load_data(recipe, split) for split in ("train", "test"))
    afford(4 * n * math.prod(train.shape), f"n {n}", "choose fewer, and more seeds")
    if not len(held_out):
        raise InputError(f"{train.name} holds out no pictures to compare samples with: add pictures")
    extractor = _extractor(recipe.data.name, train, judge)
    denoise = building.guided(run.denoiser(), recipe, config.scale)
    evaluation, drawn = evaluate(
        denoise, train, held_out, extractor, n=n, seeds=seeds, batch_size=batch_size, **building.sampling(config)
    )
    grid.save(sheet(drawn.images, COLUMNS), pictures)
    grid.save(sheet(torch.cat([drawn.closest, drawn.neighbours]), len(drawn.closest)), closest)
    write(figures, evaluation.to_json())
    return evaluation


def _extractor(name: str, data: ImageSet, judge: str | Path | None) -> FeatureExtractor:
    if judge is not None:
        return judges.load(judge)
    if (judges.FOLDER / f"{name}.safetensors").is_file():
        bundled = judges.load(name)
        if (bundled.channels, bundled.size, bundled.size) == data.shape:
            return bundled
    try:
        return EfficientNetLite0()
    except InputError as error:
        raise InputError(
            f"there is no judge of {data.name} pictures of shape {data.shape}: train one with `reverie judge {name}` and pass it as "
            f"--judge, or measure in general features; {error}"
        ) from error
