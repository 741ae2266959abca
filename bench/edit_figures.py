"""Draw docs/_static/edit_digits.png: digits of a run edited by every method without text: ``python bench/edit_figures.py RUN [OUT]``."""

import sys
from pathlib import Path

import torch

import reverie as rv
from reverie.edit import METHODS, edit
from reverie.learn import grid

NEED_TEXT = ("p2p", "pix2pix_zero")
FROM, TO = (3, 7, 1, 5, 4), (8, 9, 4, 6, 9)


def main(run: str, out: str = "docs/_static/edit_digits.png") -> None:
    """A row a method below the row of the pictures, a column a digit, with what each method cost and how far it went."""
    denoise, data = rv.load(run), rv.data.load("mnist5k", "test")
    rows = [int((data.labels == label).nonzero()[2]) for label in FROM]
    images, source, target = data.batch(rows).x, rv.Cond(label=list(FROM)), rv.Cond(label=list(TO))
    lower = torch.zeros(28, 28)
    lower[14:] = 1.0
    sheet, names = [images], ["given"]
    for method in METHODS:
        if method in NEED_TEXT:
            continue
        mask = lower if method == "masked" else None
        done = edit(denoise, images, source, target, method, mask=mask, steps=20, start=0.7)
        off = (done.images - images).square().mean().sqrt()
        print(
            f"{method}: {done.evaluations:.0f} evaluations, {done.backwards:.0f} back, rms from the picture {off:.3f}",
            flush=True,
        )
        sheet.append(done.images.clamp(-1.0, 1.0))
        names.append(method)
    columns = torch.stack(sheet, 1).flatten(0, 1)  # a row a digit, a column a method
    grid.save(grid.tile(columns, len(sheet), names), Path(out))


if __name__ == "__main__":
    main(*sys.argv[1:])
