"""Measure a model: draw samples, compare them with held-out pictures, and put the figures of controls beside them.

The controls give the scale: *training* pictures (real against real, and what a perfect copier would draw), the same pictures *blurred*, and
*noise* of the mean and spread of the pictures, which is what a model draws that has learned nothing. Samples, like real data, are measured
as 8-bit pictures. The Gaussians of a Fréchet distance take more pictures than features; with fewer only the kernel distance is taken.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from reverie.core.condition import Cond
from reverie.core.errors import InputError, RunError
from reverie.core.generator import Generator
from reverie.core.noise import normal_rows, normals
from reverie.core.progress import Progress
from reverie.data import ImageSet
from reverie.learn.grid import to_bytes
from reverie.measure.extract import FeatureExtractor, ask
from reverie.measure.figures import TITLES, Closest, Evaluation, Figure
from reverie.measure.frechet import frechet_distance, frechet_distance_to_moments
from reverie.measure.judge import Judge
from reverie.measure.kernel import kernel_distance
from reverie.measure.neighbours import Neighbours, memorisation, nearest
from reverie.measure.pictures import from_bytes
from reverie.measure.precision_and_recall import precision_recall
from reverie.measure.statistics import Statistics

K = 3
CLOSEST = 12


@dataclass(frozen=True)
class Drawn:
    """The samples of the first seed, and the training pictures nearest to them, for showing."""

    images: UInt8[Tensor, "n c h w"]
    labels: Int64[Tensor, " n"] | None
    closest: UInt8[Tensor, "k c h w"]
    neighbours: UInt8[Tensor, "k c h w"]


@torch.no_grad()
def evaluate(
    generator: Generator,
    train: ImageSet,
    held_out: ImageSet,
    extractor: FeatureExtractor,
    *,
    told: Cond | None = None,
    judge: Judge | None = None,
    statistics: Statistics | None = None,
    n: int = 1000,
    seeds: Sequence[int] = (0, 1, 2),
    batch_size: int = 250,
) -> tuple[Evaluation, Drawn]:
    """Every measure of a model's samples and of the controls.

    Classes are drawn in the proportions of the held-out pictures, equally if these are balanced; so are the training pictures of the
    controls, as many as there are samples (or as the training split has).

    Args:
        generator: what draws, as it is to be measured, such as a :class:`reverie.solve.Sampler`; its ``settings`` are recorded.
        train: what it was trained on.
        held_out: what it is compared with.
        extractor: the features of Fréchet and kernel distance, precision and recall.
        told: what the n samples of each seed are told, such as captions or maps of held-out pictures, in place of classes.
        judge: says which class a sample shows; the extractor, if that is a judge. No accuracy without labels or judge.
        statistics: of the features of a data set, to which a Fréchet distance is taken besides, as papers do.
        n: samples per seed.
        seeds: figures are means over them.
        batch_size: samples drawn at a time.

    Raises:
        InputError: for no seeds, too few pictures, a judge of other classes, or statistics of other features.
        RunError: if a sample is not a number.
    """
    started = time.perf_counter()
    if min(n, len(held_out), len(train)) <= K:
        raise InputError(
            f"measuring takes more than {K} pictures of each kind: got n = {n} samples, {len(train)} training and "
            f"{len(held_out)} held-out pictures"
        )
    if not seeds:
        raise InputError("measuring takes at least one seed")
    if statistics is not None:
        _check(statistics, extractor, n)
    labels = None
    if told is not None and "label" in told:
        labels = told["label"].value
    elif held_out.labels is not None and "label" in generator.conditions:
        labels = _proportional(held_out.labels, n)
    judge = _judge(judge, extractor, held_out) if labels is not None else None
    device = next((p.device for module in generator.modules().values() for p in module.parameters()), "cpu")
    for looks in (extractor, judge):
        if isinstance(looks, nn.Module):
            looks.to(device)
    unseen_pictures = held_out.batch(range(len(held_out))).x
    reference = ask(extractor, unseen_pictures)
    frechet = min(n, len(reference)) > reference.shape[1]

    told = Cond(label=labels) if told is None and labels is not None else told
    samples = _draw(generator, told, n, seeds, batch_size)
    chosen = [_subset(train, held_out.labels, n, seed) for seed in seeds]
    real = [(some.x, some.label) for some in map(train.batch, chosen)]
    subjects = {
        "samples": [(from_bytes(images), labels) for images in samples],
        "training": real,
        "blurred": [(blur(images, max(1.0, min(train.shape[1:]) / 28)), own) for images, own in real],
        "noise": [(noise_like(unseen_pictures, n, seed), labels) for seed in seeds],
    }
    scores = {
        of: [_score(*each, extractor, judge, reference, frechet, statistics) for each in pictures]
        for of, pictures in subjects.items()
    }
    nothing = _mean([score["kernel"] for score in scores["noise"]])
    unit = _mean([score["frechet"] for score in scores["training"]]) if frechet else None

    figures = []
    for of, each_seed in scores.items():
        for score in each_seed:
            score["kernel_share"] = score["kernel"] / nothing
            if unit is not None:
                score["frechet_ratio"] = score["frechet"] / unit
        for measure in (name for name in TITLES if name in each_seed[0]):
            each = tuple(score[measure] for score in each_seed)
            by = judge if measure == "accuracy" and judge is not None else extractor
            against = (held_out.name, held_out.split, len(held_out))
            if measure == "frechet_reference" and statistics is not None:
                against = (statistics.name, f"statistics {statistics.version}", statistics.count)
            figures.append(
                Figure(
                    measure=measure,
                    of=of,
                    value=_mean(each),
                    each=each,
                    seeds=tuple(seeds),
                    count=len(subjects[of][0][0]),
                    data=against[0],
                    split=against[1],
                    reference=against[2],
                    extractor=by.name,
                    settings=generator.settings() if of == "samples" else {},
                )
            )

    unseen = nearest(unseen_pictures, train)
    near = nearest(from_bytes(samples[0]), train)
    closest, drawn = _closest(near, samples[0], labels, train)
    evaluation = Evaluation(
        figures=tuple(figures),
        memorisation={
            "samples": memorisation(near, unseen),
            "training": memorisation(nearest(real[0][0], train), unseen),
        },
        closest=closest,
        seconds=time.perf_counter() - started,
        dims=reference.shape[1],
    )
    return evaluation, drawn


def noise_like(pictures: Float[Tensor, "m c h w"], n: int, seed: int) -> Float[Tensor, "n c h w"]:
    """Independent normal values with the mean and standard deviation of each channel of ``pictures``, as 8-bit pictures."""
    mean, std = pictures.mean((0, 2, 3), keepdim=True), pictures.std((0, 2, 3), keepdim=True)
    drawn = torch.from_numpy(normal_rows([f"measure/noise/{seed}/{i}" for i in range(n)], pictures[0].numel()))
    return from_bytes(to_bytes(mean + std * drawn.to(pictures).view(n, *pictures.shape[1:])))


def blur(images: Float[Tensor, "n c h w"], sigma: float) -> Float[Tensor, "n c h w"]:
    """Gaussian blur of standard deviation ``sigma`` pixels, borders repeated, rounded to 8 bits."""
    reach = max(1, round(3 * sigma))
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    weights = (weights / weights.sum()).expand(images.shape[1], 1, 1, -1)
    groups = images.shape[1]
    padded = F.pad(images, (reach,) * 4, mode="replicate")
    blurred = F.conv2d(F.conv2d(padded, weights, groups=groups), weights.mT, groups=groups)
    return from_bytes(to_bytes(blurred))


def _draw(
    generator: Generator,
    told: Cond | None,
    n: int,
    seeds: Sequence[int],
    batch: int,
) -> list[Tensor]:
    """8-bit samples, (n, C, H, W) for each seed."""
    drawn = []
    with Progress("sampling to measure", n * len(seeds), "pictures") as progress:
        for seed in seeds:
            parts = []
            for rows in torch.arange(n).split(batch):
                cond = None if told is None else told.index(rows)
                addresses = [(seed, int(row)) for row in rows]
                images = generator.sample(len(rows), cond, seed=addresses)
                if images.isnan().any():
                    raise RunError("the samples contain NaN: the model has diverged; use an earlier checkpoint")
                parts.append(to_bytes(images))
                progress.advance(len(rows))
            drawn.append(torch.cat(parts))
    return drawn


def _score(
    images: Tensor,
    labels: Tensor | None,
    extractor: FeatureExtractor,
    judge: Judge | None,
    reference: Tensor,
    frechet: bool,
    statistics: Statistics | None,
) -> dict[str, float]:
    features = ask(extractor, images)
    covered = precision_recall(reference, features, K)
    score = {
        "kernel": kernel_distance(features, reference),
        "precision": covered.precision,
        "recall": covered.recall,
    }
    if frechet:
        score["frechet"] = frechet_distance(features, reference)
    if statistics is not None:
        score["frechet_reference"] = frechet_distance_to_moments(features, statistics.mean, statistics.covariance)
    if judge is not None and labels is not None:
        right = ask(judge, images, judge.logits).argmax(1) == labels
        score["accuracy"] = right.double().mean().item()
    return score


def _check(statistics: Statistics, extractor: FeatureExtractor, n: int) -> None:
    if statistics.extractor != extractor.name:
        raise InputError(
            f"{statistics.name} holds statistics in the features of {statistics.extractor}, not of {extractor.name}"
        )
    fewest = min(n, statistics.count or n)
    if fewest <= extractor.dim:
        what = "n = " if fewest == n else f"those of {statistics.name}, "
        raise InputError(
            f"a Fréchet distance in the {extractor.dim:,} features of {extractor.name} takes more pictures than that, papers 50,000: "
            f"got {what}{fewest:,}"
        )


def _judge(judge: Judge | None, extractor: FeatureExtractor, data: ImageSet) -> Judge | None:
    judge = extractor if judge is None and isinstance(extractor, Judge) else judge
    if judge is not None and judge.classes != data.classes:
        raise InputError(
            f"{judge.name} tells {', '.join(judge.classes)} apart, {data.name} has the classes {', '.join(data.classes)}: "
            "train a judge on this data"
        )
    return judge


def _proportional(labels: Tensor, n: int) -> Tensor:
    """``n`` labels in the proportions of ``labels`` (largest remainders), class after class."""
    share = torch.bincount(labels).double() * n / len(labels)
    counts = share.floor().long()
    counts[(share - counts).argsort(descending=True, stable=True)[: n - int(counts.sum())]] += 1
    return torch.arange(len(counts)).repeat_interleave(counts)


def _subset(train: ImageSet, labels: Tensor | None, n: int, seed: int) -> Tensor:
    """Indices of ``n`` different training pictures with the class proportions of ``labels``, as far as the classes reach."""
    order = torch.from_numpy(normals(f"measure/{seed}", len(train))).argsort()
    if labels is None or train.labels is None:
        return order[:n]
    counts = torch.bincount(_proportional(labels, n))
    own = train.labels[order]
    return torch.cat([order[own == c][: int(count)] for c, count in enumerate(counts)])


def _closest(
    near: Neighbours, images: Tensor, labels: Tensor | None, train: ImageSet
) -> tuple[tuple[Closest, ...], Drawn]:
    rows = near.ratio.argsort()[:CLOSEST]
    closest = tuple(
        Closest(
            label=None if labels is None else int(labels[row]),
            index=int(near.index[row]),
            distance=float(near.distance[row]),
            ratio=float(near.ratio[row]),
        )
        for row in rows
    )
    return closest, Drawn(images, labels, images[rows], to_bytes(train.batch(near.index[rows]).x))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
