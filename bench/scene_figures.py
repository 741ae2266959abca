"""The figures of RealFill and Break-A-Scene, by the stored denoiser of tests/guide/discs.py: a minute on one core.

python bench/scene_figures.py          # writes docs/_static/realfill.png and docs/_static/break_a_scene.png, and says what is in them
"""

import sys
from pathlib import Path

import torch
from torch import Tensor

import reverie as rv
from reverie.edit import masked
from reverie.learn import grid

sys.path.append(str(Path(__file__).parents[1]))
from tests.adapt import told_discs

STATIC = Path(__file__).parents[1] / "docs" / "_static"
N = 5


def scene(*discs: tuple[tuple[float, float, float], tuple[float, float]]) -> Tensor:
    """A picture of discs of these colours at these places, (1, 3, 16, 16)."""
    return torch.stack([told_discs.disc(colour, at)[0] for colour, at in discs]).amax(0)[None]


def sheet(images: Tensor, name: str) -> None:
    grid.save(grid.tile(images.repeat_interleave(6, 2).repeat_interleave(6, 3), N), STATIC / name)


def realfill() -> None:
    """The truth, the hole and three references; then fillings of the base, by the references, and by those of another place."""
    base, hole = told_discs.model(), torch.zeros(16, 16, dtype=torch.bool)
    hole[7:, 5:] = True
    red, blue, told = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0), base.conditioner("red blue ground")

    def seen(at: tuple[float, float], by: tuple[int, int] = (0, 0)) -> Tensor:
        return scene((red, (4.5 + by[0], 5.5 + by[1])), (blue, (at[0] + by[0], at[1] + by[1])))

    truth = seen((11.0, 10.0))
    given = torch.where(hole, torch.tensor(-1.0), truth)
    shown = torch.where(hole, torch.tensor(0.0), truth)  # the hole is grey in the figure
    right, wrong = (torch.cat([seen(at, by) for by in ((0, 1), (1, 0), (0, -1))]) for at in ((11.0, 10.0), (11.5, 8.0)))
    how = {"n": N, "iterations": 150, "rate": 1e-2, "rank": 8, "steps": 20}
    rows = {
        "the model alone": masked(base, given.expand(N, -1, -1, -1), hole, told, steps=20),
        "these references": rv.edit.realfill(base, given, hole, right, told, **how),
        "references of another place": rv.edit.realfill(base, given, hole, wrong, told, **how),
    }
    for name, filled in rows.items():
        off = (filled - truth)[..., hole].square().mean().sqrt()
        print(f"{name}: {off:.2f} rms from the truth in the hole")
    sheet(torch.cat([truth, shown, right, *rows.values()]), "realfill.png")


def break_a_scene() -> None:
    """The picture and the masks; then pictures told the one handle, the other, and both."""
    base = told_discs.model()
    (one, a), (two, b) = told_discs.disc((0, 1, 0), (4.5, 4.5)), told_discs.disc((0, 0, 1), (10.5, 10.5))
    how = {"attend": 3.0, "token_rate": 5e-2, "rate": 1e-3, "preserve": 1.0, "drawn": 16, "steps": 100, "batch": 8}
    picture = torch.maximum(one, two)[None]
    adapter = rv.adapt.scene(
        base, picture, {"<a>": a, "<b>": b}, likes=["green", "blue"], prompt="{} ground", seed=0, **how
    )
    model, rows = rv.adapt.apply(base, adapter), []
    for said in ("<a>", "<b>", "<b> and <a>"):
        drawn = rv.sample(model, N, model.conditioner(f"{said} ground"), "euler", 20, seed=0)
        lit = ((drawn > 0.0).sum((2, 3)) > 10).sum(0).tolist()
        print(f"{said}: of {N} pictures {lit[0]} show red, {lit[1]} green, {lit[2]} blue")
        rows.append(drawn)
    masks = [2.0 * mask.float().expand(1, 3, -1, -1) - 1.0 for mask in (a, b)]
    blank = torch.ones(2, 3, 16, 16)
    sheet(torch.cat([picture, *masks, blank, *rows]), "break_a_scene.png")


if __name__ == "__main__":
    torch.set_num_threads(1)
    realfill()
    break_a_scene()
