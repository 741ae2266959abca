"""The picture of docs/guide/compare.md: two digits of each class by each of the models that ``reverie compare`` has trained.

python bench/compare_figures.py runs/mnist5k-*
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

import reverie as rv
from reverie.learn.grid import to_bytes

STATIC = Path(__file__).parents[1] / "docs" / "_static"
PER_CLASS = 2


def strip(images: torch.Tensor) -> torch.Tensor:
    """Pictures (n, C, H, W) of [−1, 1] side by side, as bytes (H, n·W)."""
    return torch.cat(list(to_bytes(images)[:, 0] if images.shape[1] == 1 else to_bytes(images)), -1)


def main(folders: list[str]) -> None:
    labels = torch.arange(10).repeat_interleave(PER_CLASS)
    held_out = rv.data.load("mnist5k", split="test")
    assert held_out.labels is not None
    real = torch.cat([(held_out.labels == digit).nonzero()[:PER_CLASS, 0] for digit in range(10)])
    rows = {"held out": held_out.batch(real).x}
    for folder in folders:
        generator = rv.recipes.Run(folder).generator()
        rows[Path(folder).name.removeprefix("mnist5k-")] = generator.sample(
            len(labels), rv.Cond(label=labels), seed=list(range(len(labels)))
        )
    figure, axes = plt.subplots(len(rows), 1, figsize=(10, 0.52 * len(rows)), dpi=100)
    for axis, (name, images) in zip(axes, rows.items(), strict=True):
        axis.imshow(strip(images), cmap="gray", interpolation="nearest")
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
        axis.set(xticks=[], yticks=[])
    figure.subplots_adjust(left=0.12, right=0.995, top=0.995, bottom=0.005, hspace=0.05)
    figure.savefig(STATIC / "compare.png")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:])
