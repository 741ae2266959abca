"""The pictures of docs/guide/compare.md: two pictures of each class by each of the models that ``reverie compare`` has trained.

python bench/compare_figures.py compare_ten.png runs/mnist5k-*
python bench/compare_figures.py compare_emoji.png runs/emoji-*
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

import reverie as rv
from reverie.learn.grid import to_bytes
from reverie.recipes import sources

STATIC = Path(__file__).parents[1] / "docs" / "_static"
PER_CLASS = 2


def strip(images: torch.Tensor) -> torch.Tensor:
    """Pictures (n, C, H, W) of [−1, 1] side by side, as bytes (H, n·W, 3)."""
    return torch.cat(list(to_bytes(images).expand(-1, 3, -1, -1)), -1).permute(1, 2, 0)


def main(name: str, *folders: str) -> None:
    runs = [rv.recipes.Run(folder) for folder in folders]
    held_out = sources.load(runs[0].recipe, "test")
    assert held_out.labels is not None
    labels = held_out.labels.unique().repeat_interleave(PER_CLASS)
    of_class = [(held_out.labels == label).nonzero()[:, 0] for label in labels]
    real = torch.stack([found[i % PER_CLASS % len(found)] for i, found in enumerate(of_class)])
    rows = {"held out": held_out.batch(real).x}
    for run in runs:
        drawn = run.generator().sample(len(labels), rv.Cond(label=labels), seed=list(range(len(labels))))
        rows[run.folder.name.split("-", 1)[-1]] = drawn
    figure, axes = plt.subplots(len(rows), 1, figsize=(10, 0.52 * len(rows)), dpi=100)
    for axis, (row, images) in zip(axes, rows.items(), strict=True):
        axis.imshow(strip(images), interpolation="nearest")
        axis.set_ylabel(row, rotation=0, ha="right", va="center")
        axis.set(xticks=[], yticks=[])
    figure.subplots_adjust(left=0.12, right=0.995, top=0.995, bottom=0.005, hspace=0.05)
    figure.savefig(STATIC / name)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
