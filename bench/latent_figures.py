"""The picture and the table of latent diffusion in docs/families/autoencoders.md: a latent and a pixel model of the same pictures.

reverie train latent --budget 20m --out LATENT; reverie train --data emoji64 --budget 20m --out PIXEL
python bench/latent_figures.py LATENT PIXEL [SAMPLES]
"""

import sys
from pathlib import Path

import torch

import reverie as rv
from panel import Panel
from reverie.learn import grid
from reverie.measure.pictures import from_bytes
from reverie.recipes import sources

PICTURE = Path(__file__).parents[1] / "docs" / "_static" / "latent.png"
AT_ONCE = 50


@torch.no_grad()
def main(latent: str, pixel: str, samples: str = "500") -> None:
    n, runs = int(samples), {"latent": rv.recipes.Run(latent), "pixels": rv.recipes.Run(pixel)}
    train, held_out = (sources.load(runs["latent"].recipe, split) for split in ("train", "test"))
    panel = Panel(runs["latent"].recipe.data.name)
    space, labels = rv.load(latent).space, panel.labels(n)
    assert labels is not None and held_out.labels is not None

    x = held_out.batch(range(len(held_out))).x
    restored = from_bytes(grid.to_bytes(space.decode(space.encode(x))))
    error = (x - restored).square().flatten(1).mean(1)
    print(
        f"held out, restored: {10 * torch.log10(4 / error.mean()):.1f} dB; the mean of each {(10 * torch.log10(4 / error)).mean():.1f} dB"
    )

    some = train.batch(torch.linspace(0, len(train) - 1, n).long()).x
    shown = {"training pictures": some, "training pictures, restored": space.decode(space.encode(some))}
    for name, run in runs.items():
        parts = [
            run.generator().sample(len(part), rv.Cond(label=labels[part]), seed=part.tolist())
            for part in torch.arange(n).split(AT_ONCE)
        ]
        shown[f"samples, {name}"] = torch.cat(parts)
    shown["noise"] = torch.rand(some.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    print("| | Fréchet ratio | kernel distance | precision | recall |\n|---|---:|---:|---:|---:|")
    for name, pictures in shown.items():
        found = panel.figures(pictures, None)[list(panel.views)[-1]]
        print(
            f"| {name} | {found['ratio']:.1f} | {found['kernel']:.2f} | {found['precision']:.0%} | {found['recall']:.0%} |",
            flush=True,
        )

    first = [int((labels == label).nonzero()[0]) for label in labels.unique()]
    second = [int((labels == label).nonzero()[-1]) for label in labels.unique()]
    real = torch.stack([(held_out.labels == label).nonzero()[0, 0] for label in labels.unique()])
    rows = [x[real], restored[real], *(shown[f"samples, {name}"][each] for name in runs for each in (first, second))]
    grid.save(grid.tile(torch.cat([row.clamp(-1.0, 1.0) for row in rows]), len(first)), PICTURE)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
