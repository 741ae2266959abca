"""The figure of docs/guides/estimate.md for guides that something small has to be learned for: a minute or two on one core.

python bench/learned_figures.py
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor
from torch.optim import Adam

import reverie as rv
from reverie import data, guide, nets
from reverie.core.batch import Batch
from reverie.core.condition import Cond
from reverie.core.denoiser import NetDenoiser
from reverie.core.draws import Draws
from reverie.core.schedules import Flow
from reverie.core.task import Moment
from reverie.core.times import LogitNormal
from reverie.diffusion import Denoising
from reverie.diffusion.online import Online
from reverie.guide.attention import position, size
from reverie.guide.online import Prototypes
from reverie.nets import DiTConfig
from reverie.nets.vectors import VectorNet

STATIC = Path(__file__).parent.parent / "docs" / "_static"
K, BATCH, SHAPE = 12, 64, (1, 8, 8)


def fit(task: Denoising, images: Tensor, steps: int, cond: Tensor | None = None) -> None:
    """Adam with a falling rate, pictures in turn."""
    module = next(iter(task.players.values())).module
    optimizer = Adam(module.parameters(), 3e-3)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = torch.Generator().manual_seed(0)
    for step in range(steps):
        rows = torch.randint(len(images), (BATCH,), generator=order)
        batch = Batch(images[rows], None if cond is None else Cond(vector=cond[rows]))
        parts = task.loss("denoiser", batch, Draws(0, BATCH * step, BATCH), Moment(0, 0, 1))
        optimizer.zero_grad()
        torch.stack([part.mean() for part in parts.values()]).sum().backward()
        optimizer.step()
        rate.step()
    module.eval().requires_grad_(False)


def network(**more: int) -> NetDenoiser:
    torch.manual_seed(0)
    config = DiTConfig(patch=2, width=64, depth=3, heads=4, local=True, vector=more.get("vector", 0))
    net = nets.build(config, channels=1, size=8, classes=more.get("classes"))
    return NetDenoiser(net, Flow(), "flow", shape=SHAPE)


def rows(images: Tensor, columns: int) -> Tensor:
    """(n, 1, 8, 8) as one grey picture with a pixel between."""
    padded = torch.nn.functional.pad(images[:, 0].clamp(-1, 1), (1, 1, 1, 1), value=1.0)
    return torch.cat([torch.cat(list(row), dim=1) for row in padded.split(columns)])


def online(images: Tensor, steps: int) -> Tensor:
    """A row a prototype: five pictures assigned to it, and five drawn with its code."""
    denoise = network(classes=K)
    task = Online(denoise, Prototypes(64, K, 32), LogitNormal(), site="blocks.1", clustering=1.0, drop=0.1)
    fit(task, images, steps)
    found = task.assign(images)
    shown = found.bincount(minlength=K).argsort(descending=True).tolist()[:8]
    lines = []
    for k in shown:
        drawn = rv.sample(guide.cfg(denoise, 2.0), 5, Cond(label=k), steps=12, seed=k)
        lines += [images[found == k][:5], drawn]
    return rows(torch.cat(lines), 10)


def represented(images: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Digits without any condition, and by way of representations: 16 principal components, standardised."""
    plain = network()
    fit(Denoising(plain, LogitNormal()), images, steps)
    flat = images.flatten(1) - images.flatten(1).mean(0)
    codes = guide.standardise(flat @ torch.linalg.svd(flat, full_matrices=False).Vh[:16].T)
    pixels = network(vector=16)
    fit(Denoising(pixels, LogitNormal(), drop=0.1), images, steps, codes)
    torch.manual_seed(0)
    vectors = NetDenoiser(VectorNet(16, 128, 3), Flow(), "flow", shape=(16,))
    fit(Denoising(vectors, LogitNormal()), codes, 2 * steps)
    drawn, _ = guide.rcg(guide.cfg(pixels, 1.5), vectors, 40, steps=12)
    return rows(rv.sample(plain, 40, steps=12), 10), rows(drawn, 10)


def steered() -> dict[str, Tensor]:
    """The mean map of a token in a small U-Net of random weights, unguided and steered: the test bed of the tests."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from guide.test_attention import TEXT, painter

    base, cond = painter(), Cond(text=TEXT)
    wanted = {
        "as it is": (position(1, (0.5, 0.5)), 0.0),
        "to the top left": (position(1, (0.0, 0.0)), 60.0),
        "to the bottom right": (position(1, (1.0, 1.0)), 60.0),
        "small": (size(1, 0.0), 60.0),
    }
    found = {}
    for name, (energy, scale) in wanted.items():
        guided = guide.attention(base, energy, scale)
        x = rv.sample(guided, 24, cond, "ddim", 16, seed=1)
        _, seen = guided.look_at(x, base.schedule.point(0.5), cond)
        maps = [torch.nn.functional.interpolate(a, (8, 8), mode="area")[:, 1] for a in seen.maps.values()]
        found[name] = torch.stack(maps).mean((0, 1)).detach()
    return found


def figure(steps: int = 600) -> None:
    images = data.load("digits8").batch(range(1297)).x
    prototypes, (plain, through) = online(images, steps), represented(images, steps)
    layout = plt.figure(figsize=(12, 4.6), constrained_layout=True)
    left, middle, right = layout.subfigures(1, 3, width_ratios=(1.3, 1.2, 1.2))
    above, below = middle.subplots(2, 1)
    for axis, title, picture in (
        (left.subplots(), "online: five assigned, five drawn by each prototype", prototypes),
        (above, "no condition", plain),
        (below, "by way of representations (RCG)", through),
    ):
        axis.imshow(picture, cmap="gray")
        axis.set_title(title, fontsize=9)
    for axis, (name, value) in zip(right.subplots(2, 2).flat, steered().items(), strict=True):
        axis.imshow(value, cmap="magma", vmin=0.2, vmax=0.5)
        axis.set_title(f"a token's map {name}", fontsize=8)
    for axis in layout.get_axes():
        axis.set(xticks=[], yticks=[])
    layout.savefig(STATIC / "guides_learned.png", dpi=110)


if __name__ == "__main__":
    torch.set_num_threads(1)
    figure()
