"""A text-to-image run over scales of guidance: whether it draws what is said, how well and how variedly; the table of
docs/guide/text_to_image.md.

    python bench/text.py RUN TOWERS [--scales 1 1.5 2 3 4 6] [--seeds 1] [--rerank OTHER]

TOWERS is a picture-text model that was trained on other pictures of the concepts. Distances and recall are in features of
EfficientNet-Lite0, against held-out pictures. Each measurement is kept in the run (captions.json, evaluation.json). OTHER is a further
picture-text model, which chooses the best of sixteen samples of held-out captions at the last of the scales. Of a run that draws tokens
there is a row of real pictures that have become tokens and pictures again: what it cannot surpass.
"""

import argparse
from dataclasses import replace

import torch

import reverie as rv
from reverie.families.autoregressive import Autoregressive
from reverie.measure.captions import CaptionScores
from reverie.measure.figures import percent
from reverie.measure.reranking import CANDIDATES
from reverie.measure.retrieval import matched
from reverie.recipes import measuring, sources

HEADS = ("guidance", "score", "1 of 100, trained", "1 of 100, new", "5 of 100, new", "kernel", "precision", "recall")


def shares(found: CaptionScores, row: str) -> tuple[str, str]:
    _, one, five = found.rows[row]
    return percent(one), percent(five)


def line(name: str, score: float, trained: str, one: str, five: str) -> None:
    print(f"| {name} | {score:.3f} | {trained} | {one} | {five} | | | |", flush=True)


@torch.no_grad()
def beside(run: rv.recipes.Run, towers: str, sample: object, other: str | None) -> None:
    """Rows of held-out captions that are no samples as they come: the best of several, and real pictures by way of tokens."""
    generator, looks, held_out = run.generator(sample), measuring.scorer(towers), sources.load(run.recipe, "test")
    said = [held_out.captions.say(i) for i in range(len(held_out))]
    made = {}
    if other is not None:
        made[f"best of {CANDIDATES}"] = rv.measure.reranked(generator, said, measuring.scorer(other))
    if isinstance(generator, Autoregressive) and not generator.net.exact:
        made["real, as tokens"] = generator.net.picture(generator.net.tokens(held_out.batch(range(len(said))).x))
    for name, images in made.items():
        score, one, five = matched(looks, images.clamp(-1, 1), said)
        line(name, score, "", percent(one), percent(five))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("towers")
    parser.add_argument("--scales", nargs="*", type=float, default=[1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--rerank", metavar="OTHER")
    given = parser.parse_args()
    run, seeds = rv.recipes.Run(given.run), range(given.seeds)
    print("| " + " | ".join(HEADS) + " |\n|" + "---:|" * len(HEADS))
    for scale in given.scales:
        sample = replace(run.recipe.usual, scale=scale)
        new, old = (
            measuring.match(run, given.towers, sample, split=split, n=given.n, seeds=seeds)
            for split in ("test", "train")
        )
        figures = measuring.measure(run, sample, n=given.n, seeds=seeds)
        kernel, precision, recall = (figures.figure(name) for name in ("kernel", "precision", "recall"))
        assert kernel is not None and precision is not None and recall is not None
        score, (one, five) = new.rows["samples"][0], shares(new, "samples")
        print(
            f"| {scale:g} | {score:.3f} | {shares(old, 'samples')[0]} | {one} | {five} | {kernel.value:.3f} | "
            f"{percent(precision.value)} | {percent(recall.value)} |",
            flush=True,
        )
    beside(run, given.towers, sample, given.rerank)
    for row in ("real", "lookup", "shuffled"):
        line(row, new.rows[row][0], shares(old, row)[0] if row in old.rows else "", *shares(new, row))  # pyright: ignore


if __name__ == "__main__":
    main()
