"""Autoregressive models: what a cache saves, what pictures cost in bits, and the figures of docs/families/autoregressive.md.

python autoregressive.py speed                  # drawing with a cache beside a pass over the growing prefix for every number
python autoregressive.py bits RUN [RUN …]       # held-out pictures of a run, compressed, given back and compared, beside PNG and WebP
python autoregressive.py likelihood RUN [RUN …] # bits per dimension of all held-out pictures, of runs with an exact likelihood
python autoregressive.py figure OUT RUN [RUN …] # digits that each run draws, and what each pixel of a picture costs
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from reverie import data
from reverie.core.batch import DataSpec
from reverie.core.condition import Cond, Label
from reverie.families.autoregressive import walk
from reverie.families.config import PixelCNNConfig, SubPixelConfig
from reverie.families.subpixel import SubPixels
from reverie.learn import grid
from reverie.recipes import archives
from reverie.recipes.runs import Run

RESULTS = Path(__file__).parent / "results" / "autoregressive.json"
N = 16
STEPS = 8
"""Every so many of the passes over a growing prefix is timed; the others are taken to cost what their neighbours do."""


def speed() -> dict:
    spec = DataSpec((1, 28, 28), {"label": Label(10)}, tuple(map(str, range(10))), "digits")
    cond, rows = Cond(label=[i % 10 for i in range(N)]), {}
    for config in (SubPixelConfig(), PixelCNNConfig(width=32)):
        net = config.build(spec, 0).net.eval().requires_grad_(False)
        begun = time.process_time()
        with torch.no_grad():
            tokens = walk(net, N, cond, lambda i, log_p: log_p.argmax(1))
            cached, plain = time.process_time() - begun, 0.0
            x = net.picture(tokens)
            for length in range(1, net.length + 1, STEPS):
                begun = time.process_time()
                if isinstance(net, SubPixels):
                    net(tokens[:, :length], cond)
                else:
                    net(x[:, :, : -(-length // 28)], cond)
                plain += STEPS * (time.process_time() - begun)
        rows[config.name] = {"cached": cached, "plain": plain, "ratio": plain / cached}
        print(
            f"{config.name}: {N} pictures of 784 numbers, {cached:.2f} s with its cache, {plain:.1f} s without: {plain / cached:.1f} times"
        )
    return rows


def bits(folder: str) -> dict:
    run = Run(folder)
    config = run.recipe.data
    pictures = data.load(config.name, "test", size=config.size, channels=config.channels)
    with tempfile.TemporaryDirectory() as temporary:
        here = Path(temporary)
        for i, pixels in enumerate(pictures.images):
            grid.save(grid.to_picture(pixels), here / "in" / f"{i:04d}.png")
        begun = time.perf_counter()
        made = archives.compress(run, here / "in", here / "a.rvz")
        packed = time.perf_counter() - begun
        begun = time.perf_counter()
        archives.decompress(here / "a.rvz", here / "out")
        unpacked = time.perf_counter() - begun
        names = sorted(path.name for path in (here / "in").iterdir())
        lossless = names == sorted(path.name for path in (here / "out").iterdir()) and all(
            np.array_equal(*(np.asarray(Image.open(here / side / name)) for side in ("in", "out"))) for name in names
        )
    n = made.pictures
    row = {
        "data": config.name,
        "task": run.recipe.task.name,
        "images": run.checkpoint.state["images"],
        "seconds of training": run.checkpoint.state["seconds"],
        "pictures": n,
        "lossless": lossless,
        "payload": made.payload / n,
        "archive": made.total / n,
        "ideal": made.ideal / n,
        **{name: size / n for name, size in made.others.items()},
        "seconds to compress": packed,
        "seconds to decompress": unpacked,
    }
    print(json.dumps(row, indent=1))
    return row


def likelihood(folder: str) -> dict:
    """Of all held-out pictures under their own labels."""
    run = Run(folder)
    model, config = run.open(), run.recipe.data
    pictures = data.load(config.name, "test", size=config.size, channels=config.channels)
    batch = pictures.batch(range(len(pictures)))
    nats = model.nats(model.net.tokens(batch.x), batch.cond if model.conditions else None)
    row = {
        "data": config.name,
        "task": run.recipe.task.name,
        "parameters": sum(p.numel() for p in model.net.parameters()),
        "images": run.checkpoint.state["images"],
        "pictures": len(pictures),
        "bits per dimension": float(nats.double().mean()) / -np.log(2) / model.net.layout.length,
    }
    print(json.dumps(row, indent=1))
    return row


def figure(out: str, folders: list[str]) -> None:
    """A row a run: one digit a class; then what each pixel of a held-out digit costs by the first run, black for nothing."""
    rows = [Run(f).generator().sample(10, Cond(label=list(range(10))), seed=0) for f in folders]
    model = Run(folders[0]).open()
    shown = data.load("mnist5k", "test")
    pictures = shown.batch([int((shown.labels == label).nonzero()[0]) for label in range(10)])
    with torch.no_grad():
        nats = -model.net.log_prob(model.net.tokens(pictures.x), pictures.cond).reshape(10, 1, 28, 28)
    cost = (nats / np.log(2) / 8).clamp(max=1) * 2 - 1
    images = torch.cat([*rows, pictures.x, cost])
    grid.save(grid.tile(images, 10, [str(i) for i in range(10)]), Path(out))


def main(words: list[str]) -> None:
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    match words:
        case ["speed"]:
            known["speed"] = speed()
        case ["bits", *folders]:
            known.setdefault("bits", {}).update({Path(f).name: bits(f) for f in folders})
        case ["likelihood", *folders]:
            known.setdefault("likelihood", {}).update({Path(f).name: likelihood(f) for f in folders})
        case ["figure", out, *folders]:
            return figure(out, folders)
        case _:
            raise SystemExit(__doc__)
    RESULTS.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:])
