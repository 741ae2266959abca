"""The pictures of docs/families/autoencoders.md and masked_tokens.md, from runs on mnist5k.

python bench/token_figures.py autoencoders VQ VAE | tokens MASKGIT VAR
"""

import sys
from pathlib import Path

import torch

import reverie as rv
from reverie.learn import grid

STATIC = Path(__file__).parents[1] / "docs" / "_static"
DIGITS = rv.Cond(label=list(range(10)))


def save(rows: list[torch.Tensor], name: str) -> None:
    picture = grid.tile(torch.cat([row.clamp(-1.0, 1.0) for row in rows]), len(rows[0]))
    grid.save(picture.resize((2 * picture.width, 2 * picture.height), 0), STATIC / name)


@torch.no_grad()
def autoencoders(vq: str, vae: str) -> None:
    """Held-out digits; as a VQ-VAE and as a VAE restores them; three rows that the VAE draws."""
    held_out = rv.data.load("mnist5k", split="test")
    assert held_out.labels is not None
    rows = torch.stack([(held_out.labels == digit).nonzero()[0, 0] for digit in range(10)])
    batch, space, model = held_out.batch(rows), rv.load(vq), rv.load(vae)
    assert batch.label is not None
    mean, _ = model.net.encode(batch.x, batch.label)
    drawn = [rv.sample(model, cond=DIGITS, seed=seed) for seed in range(3)]
    save(
        [batch.x, space.decode(space.encode(batch.x)), model.net.decode(mean, batch.label), *drawn], "autoencoders.png"
    )


def tokens(maskgit: str, var: str) -> None:
    """Three digits on their way in each of the two models, a step a row, and two rows that each draws."""
    rows = []
    for run in (maskgit, var):
        model, film = rv.recipes.Run(run).generator(), []
        model.sample(cond=DIGITS, seed=1, on_step=lambda frame, film=film: film.append(frame.state()))
        rows += [film[round(i * (len(film) - 1) / 3)] for i in range(4)]
        rows.append(model.sample(cond=DIGITS, seed=2))
    save(rows, "masked_tokens.png")


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"autoencoders": autoencoders, "tokens": tokens}[sys.argv[1]](*sys.argv[2:])  # pyright: ignore
