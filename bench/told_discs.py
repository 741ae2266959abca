"""Discs told in regions and along lines, drawn by the stored denoiser of tests/guide/discs.py, for docs/guide/text_to_image.md.

python bench/told_discs.py           # writes docs/_static/told_discs.png, and says how well discs obey; a minute
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import reverie as rv
from reverie.core.batch import Batch
from reverie.core.draws import Draws
from reverie.core.task import Moment
from reverie.core.times import Uniform
from reverie.diffusion.hints import edges
from reverie.diffusion.sketch import EdgePredictor, Sketcher, Sketching
from reverie.learn import grid

sys.path.append(str(Path(__file__).parents[1] / "tests" / "guide"))
import discs

PICTURE = Path(__file__).parents[1] / "docs" / "_static" / "told_discs.png"
RED, BLUE, GROUND, N = 0, 2, 3, 24


def draw(denoise) -> Tensor:
    both = discs.text(torch.tensor([RED]), torch.tensor([BLUE]))
    return rv.sample(denoise, N, both, "euler", 16, seed=0)


def across(images: Tensor) -> str:
    """Where red and blue are, from left to right."""
    found = []
    for colour in (RED, BLUE):
        there = (images[:, colour] > 0).sum((1, 2)) > 4
        at = discs.centre(images[there], torch.full((int(there.sum()),), colour))[:, 1]
        found.append(f"{at.mean():.2f} ({int(there.sum())} of {len(images)} have it)")
    return f"red {found[0]}, blue {found[1]}"


def agreement(images: Tensor, lines: Tensor) -> float:
    a, b = (v.flatten(1) - v.flatten(1).mean(1, keepdim=True) for v in (edges(images), lines))
    return F.cosine_similarity(a, b, dim=1).mean().item()


def taught(base, steps: int = 80, batch: int = 24) -> Sketcher:
    """The base with an edge predictor, trained for seconds."""
    torch.manual_seed(0)
    model, rng = Sketcher(base, EdgePredictor(base, width=32)), torch.Generator().manual_seed(0)
    task, optimizer = Sketching(model, Uniform(), drop=0.0), torch.optim.Adam(model.net.parameters(), 3e-3)
    for step in range(steps):
        x0, words = discs.pictures(batch, rng)
        loss = task.loss("sketch", Batch(x0, words), Draws(0, batch * step, batch), Moment(step, 0, 1))["mse"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.net.requires_grad_(False)
    return model


def main() -> None:
    torch.set_num_threads(1)
    base, left = discs.load(), torch.zeros(discs.SIZE, discs.SIZE)
    left[:, : discs.SIZE // 2] = 1
    red, blue = (rv.Cond(text=discs.WORDS[[colour, GROUND]][None]) for colour in (RED, BLUE))
    rows = [draw(base)]
    print("free:", across(rows[0]))
    for name, (a, b) in {"red left, blue right": (red, blue), "blue left, red right": (blue, red)}.items():
        rows.append(draw(rv.guide.regional(base, [(left, a), (1 - left, b)])))
        print(f"{name}:", across(rows[-1]))
    lines = edges(discs.pictures(N, torch.Generator().manual_seed(5))[0])
    sketcher = taught(base)
    print(f"free: {agreement(rows[0], lines):.2f} of the lines")
    for beta in (0.125, 0.25, 0.5, 1.0):
        led = draw(sketcher(lines, beta))
        print(
            f"along lines, beta {beta}: {agreement(led, lines):.2f}; of another's {agreement(led, lines.roll(1, 0)):.2f}"
        )
        rows += [2.0 * lines.expand(-1, 3, -1, -1) - 1.0, led] if beta == 0.25 else []
    grid.save(grid.tile(torch.cat([row[:12] for row in rows]), 12), PICTURE)


if __name__ == "__main__":
    main()
