"""Discs sent elsewhere by self-guidance, drawn by the stored denoiser of tests/guide/discs.py, for docs/guides/estimate.md.

python bench/moved_discs.py          # writes docs/_static/moved_discs.png, and says how far from their goal discs are; ten seconds
"""

import sys
from pathlib import Path

import torch
from torch import Tensor

import reverie as rv
from reverie.learn import grid

sys.path.append(str(Path(__file__).parents[1] / "tests" / "guide"))
import discs

PICTURE = Path(__file__).parents[1] / "docs" / "_static" / "moved_discs.png"
GOALS = {"top left": (0.3, 0.3), "bottom right": (0.7, 0.7)}
FIRST, SECOND = torch.tensor([0, 0, 1, 1, 2, 2]).repeat(4), torch.tensor([1, 2, 0, 2, 0, 1]).repeat(4)


def draw(token: int, to: tuple[float, float], scale: float) -> Tensor:
    guided = rv.guide.attention(discs.load(), rv.guide.position(token, to), scale)
    return rv.sample(guided, len(FIRST), discs.text(FIRST, SECOND), "euler", 20, seed=0)


def main(scale: float = 100.0) -> None:
    torch.set_num_threads(1)
    rows = [draw(0, (0.5, 0.5), 0.0)]
    for name, to in GOALS.items():
        told, other = draw(0, to, scale), draw(1, to, scale)
        rows.append(told)
        for who, images in (("free", rows[0]), ("its word sent", told), ("the other word sent", other)):
            away = (discs.centre(images, FIRST) - torch.tensor(to)).norm(dim=1)
            pairs = ", ".join(f"{value:.2f}" for value in away.view(4, 6).mean(0).tolist())
            print(f"{name}, {who}: mean distance {away.mean():.2f} of the side; by pair of colours {pairs}")
    grid.save(grid.tile(torch.cat([row[:12] for row in rows]), 12), PICTURE)


if __name__ == "__main__":
    main()
