"""Draw digits of a run edited by every method without text, and emoji of one edited by words.

python bench/edit_figures.py digits RUN [OUT]    # docs/_static/edit_digits.png
python bench/edit_figures.py words RUN [OUT]     # docs/_static/edit_words.png, of a run of emoji-text
"""

import sys
from pathlib import Path

import torch

import reverie as rv
from reverie.edit import METHODS, edit
from reverie.learn import grid

NEED_TEXT = ("p2p", "pix2pix_zero")
FROM, TO = (3, 7, 1, 5, 4), (8, 9, 4, 6, 9)


WORDS = (
    ("green apple", "red apple"), ("grinning face", "crying face"), ("blue heart", "green heart"),
    ("cat face", "crying cat face"), ("automobile", "green automobile"), ("japan flag", "france flag"),
)  # fmt: skip
BY_WORDS = ("p2p", "negative_prompt", "edit_friendly", "masactrl", "sdedit")


def words(run: str, out: str = "docs/_static/edit_words.png") -> None:
    """A row a pair of texts, a column a method, each by its defaults."""
    denoise, data = rv.load(run), rv.data.load("emoji")
    texts = list(data.texts)  # pyright: ignore[reportArgumentType]
    images = data.batch([texts.index(before) for before, _ in WORDS]).x
    source, target = (denoise.conditioner(list(said)) for said in zip(*WORDS, strict=True))
    sheet = [images]
    for method in BY_WORDS:
        sheet.append(edit(denoise, images, source, target, method).images.clamp(-1.0, 1.0))
        print(f"{method}: rms from the picture {(sheet[-1] - images).square().mean().sqrt():.3f}", flush=True)
    columns = torch.stack(sheet, 1).flatten(0, 1).repeat_interleave(3, -1).repeat_interleave(3, -2)
    grid.save(grid.tile(columns, len(sheet), ["picture", *BY_WORDS]), Path(out))


def digits(run: str, out: str = "docs/_static/edit_digits.png") -> None:
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
    {"digits": digits, "words": words}[sys.argv[1]](*sys.argv[2:])
