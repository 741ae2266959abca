"""The pictures of docs/read: spaces, a diffusion auto-encoder and panoptic scenes, each from a few seconds of training.

python bench/reading_figures.py spaces|diffae|odise|ablation FILE
"""

import json
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

import reverie as rv
from reverie.align import diffae
from reverie.core.denoiser import NetDenoiser
from reverie.core.schedules import Flow
from reverie.core.times import Uniform
from reverie.learn import Batch, Draws, Moment, grid
from reverie.read.odise import ODISE, PRESETS, Backbone, quality, scenes
from reverie.read.odise.model import Segmenting

STATIC = Path(__file__).parents[1] / "docs" / "_static"


def descend(module: nn.Module, loss, steps: int, rate: float) -> None:
    """Adam with a linear decay to nothing."""
    optimizer = torch.optim.AdamW(module.parameters(), rate)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, steps)
    for step in range(steps):
        optimizer.zero_grad()
        loss(step).backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        decay.step()


def spaces() -> None:
    """Emoji; restored from 2, 8, 24 of 192 components; noise on the codes as the network of l-DAE sees it, and the same on the pixels."""
    images = rv.data.load("emoji")
    x = images.batch(range(0, 1200, 120)).x
    rows = [x]
    for dims in (2, 8, 24):
        space = rv.spaces.PatchPCA.fit(images, 8, dims)
        rows.append(space.decode(space.encode(x)))
        left = space.variances[dims:].sum() / space.variances.sum()
        print(f"{dims} of {space.full}: {left:.1%} of the variance left out")
    z, scale = space.encode(x), float(space.scale)
    noise = Draws(0, 0, len(x))
    rows.append(space.decode(z + 0.5 * noise.normal("codes", z.shape[1:])))
    rows.append(x + 0.5 * scale * noise.normal("pixels", x.shape[1:]))
    grid.save(grid.tile(torch.cat(rows), len(x)), STATIC / "spaces.png")


def decoder() -> None:
    """Digits of 8x8: themselves, from both codes, from the semantic code and new noise twice; and a two moved towards seven."""
    images = rv.data.load("digits8")
    torch.manual_seed(0)
    net = rv.nets.build(
        rv.nets.DiTConfig(patch=2, width=48, depth=2, heads=4, vector=12, activation="relu"), channels=1, size=8
    )
    small = rv.nets.EncoderConfig(width=16, multipliers=(1, 2), attention=())
    encoder = diffae.SemanticEncoder(small, channels=1, size=8, classes=12)
    denoise = NetDenoiser(diffae.AutoEncoder(net, encoder), Flow(), shape=(1, 8, 8))
    task = diffae.SemanticDenoising(denoise, Uniform())
    n = len(images)

    def loss(step: int) -> Tensor:
        rows = torch.randint(n, (32,), generator=torch.Generator().manual_seed(step))
        draws, now = Draws(0, 32 * step, 32), Moment(step, 32 * step, 1)
        return task.loss("denoiser", Batch(images.batch(rows).x), draws, now)["mse"].mean()

    descend(denoise.net, loss, 300, 4e-3)
    denoise.net.eval().requires_grad_(False)
    some = rv.data.load("digits8", "test").batch(range(64))
    test, labels = some.x, some.label
    assert labels is not None
    x = torch.stack([test[labels == k][0] for k in range(10)])
    code = diffae.encode(denoise, x, steps=15)
    rows = [x, diffae.decode(denoise, code.semantic, code.stochastic, steps=15)]
    rows += [diffae.decode(denoise, code.semantic, steps=15, seed=seed) for seed in (1, 2)]
    some = images.batch(range(n))
    everything, classes = some.x, some.label
    assert classes is not None
    found = diffae.Attributes(denoise.net.encoder(everything), classes)
    amounts = torch.linspace(0, 0.8, 10).tolist()
    path = torch.cat([found.move(code.semantic[2:3], 7, amount) for amount in amounts])
    rows.append(diffae.decode(denoise, path, code.stochastic[2:3].expand(10, -1, -1, -1), steps=15))
    for name, row in zip(("both codes", "semantic, other noise"), rows[1:3], strict=True):
        print(f"{name}: mean squared error {(row - x).square().mean():.4f}")
    z, z_test = (
        denoise.net.encoder(everything),
        denoise.net.encoder(rv.data.load("digits8", "test").batch(range(150)).x),
    )
    y_test = rv.data.load("digits8", "test").batch(range(150)).label
    some = rv.read.probe.few(classes, 100)
    flat, flat_test = everything.flatten(1), rv.data.load("digits8", "test").batch(range(150)).x.flatten(1)
    v = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)[2][:12].T
    for name, a, b in (("code", z, z_test), ("12 components", flat @ v, flat_test @ v)):
        print(f"{name}: probe of 100 labels {rv.read.probe.linear(a[some], classes[some]).accuracy(b, y_test):.1%}")
    grid.save(grid.tile(torch.cat(rows), 10), STATIC / "diffae.png")


COLOURS = torch.rand(24, 3, generator=torch.Generator().manual_seed(3)) * 1.6 - 0.8


def panoptic() -> None:
    """Scenes, their true segments and those that are found after a short training on the stored denoiser of scenes.

    The last four show categories whose names were never learned.
    """
    sys.path.append(str(Path(__file__).parents[1] / "tests" / "read"))
    import scenery

    denoise = scenery.load()
    torch.manual_seed(1)
    sites = ["up.0.0.in", "up.1.0.in", "up.2.0.in"]
    widths = [m.shape[1] for m in rv.taps.features(denoise, sites, torch.zeros(1, 3, 16, 16), 0.1).values()]
    model = ODISE(Backbone(denoise, sites, widths, PRESETS["small"], t=0.05), 7, PRESETS["small"])
    words = scenes.vocabulary()
    task = Segmenting(model, scenes.vocabulary(new=False))

    def loss(step: int) -> Tensor:
        parts = task.loss("odise", scenes.scenes(8 * step, 8), Draws(0, 8 * step, 8), Moment(step, 0, 1))
        return torch.stack(list(parts.values())).sum()

    descend(model, loss, int(sys.argv[2]) if len(sys.argv) > 2 else 300, 4e-3)
    model.eval()
    for name, new in (("seen", False), ("new", True)):
        batch = scenes.scenes(10_000, 100, new=new)
        found, true = model.segment(batch.x, words, stuff=(scenes.GROUND,), least=0.3), scenes.truth(batch)
        named = model.name(batch.x, batch.extra["masks"][:, :2], words)
        right = (named == batch.extra["categories"][:, :2]).double().mean()
        score = quality(found, true, len(words.names)).pq
        print(f"{name}: panoptic quality {score:.3f}, true masks named right {right:.1%}")
    parts = [scenes.scenes(20_000, 6), scenes.scenes(20_000, 4, new=True)]
    x = torch.cat([part.x for part in parts])
    true = [m for part in parts for m in scenes.truth(part)]
    found = model.segment(x, words, stuff=(scenes.GROUND,), least=0.3)
    painted = [torch.stack([_paint(m) for m in maps]) for maps in (true, found)]
    grid.save(grid.tile(torch.cat([x, *painted]), 10), STATIC / "odise.png")


def _paint(m) -> Tensor:
    """A colour a category, black where there is none."""
    picture = torch.full((3, *m.segments.shape), -1.0)
    for number, label in m.labels.items():
        picture = torch.where(m.segments == number, COLOURS[label][:, None, None], picture)
    return picture


def ablation() -> None:
    """Figures of an ablation as the table of the page."""
    print("| variant | here | ± | paper |\n|---|---:|---:|---:|")
    for f in json.loads(Path(sys.argv[2]).read_text()):
        print(f"| {f['name']} | {f['accuracy']:.1f} | {f['error']:.1f} | {'' if f['paper'] is None else f['paper']} |")


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"spaces": spaces, "diffae": decoder, "odise": panoptic, "ablation": ablation}[sys.argv[1]]()
