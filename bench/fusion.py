"""Correspondence by a small denoiser, by EfficientNet-Lite0 and by both (SD+DINO's fusion), on emoji turned, scaled and lit otherwise.

The denoiser is the stored one of tests/read/scenery.py, which has seen made scenes of 16x16 only. Half a minute; needs the weights:
``reverie prefetch efficientnet-lite0``. ``python bench/fusion.py`` writes results/fusion.json, the table of docs/guide/reading.md.
"""

import json
import sys
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

import reverie as rv
from reverie.core.denoiser import Denoiser
from reverie.measure.extract import EfficientNetLite0
from reverie.read.dense_prediction.correspond import dift, fuse

sys.path.append(str(Path(__file__).parents[1] / "tests" / "read"))
import scenery
import turned

RESULTS = Path(__file__).parent / "results" / "fusion.json"
CHOOSING, ASKED = slice(0, 40), slice(40, 160)
"""Pictures that block and time are chosen on, and those that are counted."""
SITES, T, BLOCKS, ALPHAS = (
    ("up.0.1", "up.1.0", "up.1.1"),
    (0.05, 0.2),
    ("_blocks.2", "_blocks.4", "_blocks.7"),
    (0.1, 0.05),
)
Maps = list[tuple[Tensor, Tensor]]
"""Those of each picture and of the same turned."""


def main() -> None:
    torch.set_num_threads(1)
    images = rv.data.load("emoji", "test", size=16).batch(range(ASKED.stop)).x
    other, turn = turned.pairs(images)
    trained, extractor = scenery.load(), EfficientNetLite0()

    def seen(model: Denoiser, site: str, t: float) -> Maps:
        return list(zip(*(dift(model, x, site, t=t, seed=seed) for seed, x in enumerate((images, other))), strict=True))

    def encoded(block: str) -> Maps:
        both = (
            torch.cat([rv.read.of_module(extractor, y, [block])[block] for y in x.split(40)]) for x in (images, other)
        )
        return list(zip(*both, strict=True))

    def scored(maps: Maps, rows: slice, alpha: float = ALPHAS[0]) -> float:
        a, b = zip(*maps[rows], strict=True)
        return turned.score(images[rows], turn[rows], list(a), list(b), alpha)

    def best(cells: dict[str, Maps]) -> tuple[str, Maps]:
        name = max(cells, key=lambda cell: scored(cells[cell], CHOOSING))
        return name, cells[name]

    ours = best({f"{s}, t {t}": seen(trained, s, t) for s, t in product(SITES, T)})
    control = best({f"{s}, t {t}": seen(rv.read.untrained(trained), s, t) for s, t in product(SITES, T)})
    theirs = best({block: encoded(block) for block in BLOCKS})
    readings = {"denoiser": ours, "the same untrained": control, "EfficientNet-Lite0": theirs}
    for name, maps in (("denoiser and EfficientNet-Lite0", ours), ("untrained and EfficientNet-Lite0", control)):
        readings[name] = ("half each", [fuse([u], v) for u, v in zip(maps[1], theirs[1], strict=True)])
    found = {
        name: {"read": cell, **{f"pck@{alpha}": round(scored(maps, ASKED, alpha), 4) for alpha in ALPHAS}}
        for name, (cell, maps) in readings.items()
    }
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
