"""The pictures of docs/families/adversarial.md, from runs on mnist5k.

python bench/adversarial_figures.py R3GAN STYLEGAN2
"""

import sys
from pathlib import Path

import torch

import reverie as rv
from reverie.families import interpolate, mix
from reverie.families.gan import GAN
from reverie.families.stylegan import StyleGAN
from reverie.learn import grid

STATIC = Path(__file__).parents[1] / "docs" / "_static"
DIGITS = rv.Cond(label=list(range(10)))
STEPS, LAYER = 10, 2
"""Pictures of a path; the first layer whose style is that of the column, the coarsest grid with one of the next."""


def save(pictures: torch.Tensor, columns: int, name: str) -> None:
    picture = grid.tile(pictures, columns)
    grid.save(picture.resize((2 * picture.width, 2 * picture.height), 0), STATIC / name)


def drawn(models: list[GAN]) -> None:
    """Two rows of each model, a digit a class."""
    save(
        torch.cat([rv.sample(model, cond=DIGITS, seed=seed) for model in models for seed in (0, 1)]),
        10,
        "adversarial.png",
    )


def between(round_: GAN, straight: StyleGAN) -> None:
    """Great circles in z from a digit to another of its class; straight lines in w from class to class."""
    rows = [interpolate(round_, (digit, digit + 10), STEPS, rv.Cond(label=digit)) for digit in (2, 3, 4)]
    rows += [interpolate(straight, (a, b), STEPS, rv.Cond(label=[a, b])) for a, b in ((0, 6), (3, 8), (4, 9))]
    save(torch.cat(rows), STEPS, "adversarial_paths.png")


def mixed(model: StyleGAN) -> None:
    """Rows give the coarse styles and columns the fine ones; the first row and column are the pictures that these are of."""
    coarse, fine = list(range(10, 14)), list(range(20, 26))
    rows, columns = rv.Cond(label=[2, 3, 5, 7]), rv.Cond(label=[0, 2, 4, 6, 8, 9])
    table = mix(model, coarse, fine, LAYER, rows, columns)
    left, top = rv.sample(model, cond=rows, seed=coarse), rv.sample(model, cond=columns, seed=fine)
    corner = torch.full_like(top[:1], -1.0)
    body = torch.cat([left[:, None], table], 1).flatten(0, 1)
    save(torch.cat([corner, top, body]), 1 + len(fine), "adversarial_mixed.png")


def main(folders: list[str]) -> None:
    if len(folders) != 2:
        raise SystemExit(__doc__)
    plain, styled = (rv.load(folder) for folder in folders)
    drawn([plain, styled])
    between(plain, styled)
    mixed(styled)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:])
