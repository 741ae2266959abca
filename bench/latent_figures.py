"""The picture and the table of latent diffusion in docs/families/autoencoders.md: a latent and a pixel model of the same pictures.

reverie train latent --budget 20m --out LATENT; reverie train --data emoji64 --budget 20m --out PIXEL
python bench/latent_figures.py LATENT PIXEL [SAMPLES]
"""

import sys
from pathlib import Path

import torch

import reverie as rv
from reverie.learn import grid
from reverie.measure.extract import EfficientNetLite0
from reverie.measure.kernel import kernel_distance
from reverie.measure.pictures import from_bytes
from reverie.recipes import sources
from reverie.recipes.measuring import measure

PICTURE = Path(__file__).parents[1] / "docs" / "_static" / "latent.png"


def as_bytes(x: torch.Tensor) -> torch.Tensor:
    """Pictures as they would be read from files of 8 bits."""
    return from_bytes(grid.to_bytes(x))


@torch.no_grad()
def main(latent: str, pixel: str, samples: str = "500") -> None:
    runs = [rv.recipes.Run(folder) for folder in (latent, pixel)]
    train, held_out = (sources.load(runs[0].recipe, split) for split in ("train", "test"))  # pyright: ignore
    assert held_out.labels is not None
    space, x = rv.load(latent).space, held_out.batch(range(len(held_out))).x
    restored = as_bytes(space.decode(space.encode(x)))
    error = (x - restored).square().flatten(1).mean(1)
    print(
        f"held out: {10 * torch.log10(4 / error.mean()):.1f} dB of all, {(10 * torch.log10(4 / error)).mean():.1f} dB the mean of each"
    )
    some = train.batch(torch.linspace(0, len(train) - 1, min(int(samples), len(train))).long()).x
    looks = EfficientNetLite0()
    there = looks(x)
    for name, pictures in (("training", some), ("restored", as_bytes(space.decode(space.encode(some))))):
        print(f"{name}: kernel distance {kernel_distance(looks(pictures), there):.4f}")
    codes = space.encode(x)
    print(
        f"codes: mean {codes.mean():.3f}, standard deviation {codes.std():.3f}, of each {codes.std((0, 2, 3)).tolist()}"
    )

    classes = held_out.labels.unique()
    first = torch.stack([(held_out.labels == label).nonzero()[0, 0] for label in classes])
    rows = [x[first], restored[first]]
    for run in runs:
        evaluation = measure(run, n=int(samples), seeds=(0,))
        print(
            run.folder, {f"{f.measure} {f.of}": round(f.value, 4) for f in evaluation.figures}, evaluation.memorisation
        )
        rows += [run.generator().sample(cond=rv.Cond(label=classes), seed=seed) for seed in range(2)]
    grid.save(grid.tile(torch.cat([row.clamp(-1.0, 1.0) for row in rows]), len(classes)), PICTURE)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
