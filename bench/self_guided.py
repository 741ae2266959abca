"""Self-guided digits: clusters of the unconditional model's own features as conditions, against none and against random ones.

    python bench/self_guided.py train none RUNS      # then clusters, then random; each a few minutes on one core
    python bench/self_guided.py measure RUNS         # writes bench/results/self_guided.json

The three models differ in nothing but their labels. Labels of the data are never seen.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch

import reverie as rv
from reverie import data, guide, nets
from reverie.core.condition import Cond
from reverie.core.denoiser import NetDenoiser
from reverie.core.schedules import Flow
from reverie.data import ImageSet
from reverie.learn import Denoising, TrainConfig, optim, train
from reverie.learn.checkpoint import Checkpoints
from reverie.learn.feed import feed
from reverie.learn.times import LogitNormal
from reverie.measure import frechet_distance, judge, precision_recall
from reverie.nets import DiTConfig
from reverie.nets.taps import read

K, SITE, LOGSNR = 50, "blocks.2", 4.0
NET = DiTConfig(patch=4, width=64, depth=4, heads=2, activation="relu", local=True)
CONFIG = TrainConfig(
    images=30_000, batch=32, optimizer="muon", lr=0.02, adam_lr=3e-3, weight_decay=0.0, warmup=1_100, decay="linear",
    save_every=15_000, log_every=2_000,
)  # fmt: skip
RESULTS = Path(__file__).parent / "results" / "self_guided.json"


def model(classes: int | None, folder: Path | None = None) -> NetDenoiser:
    torch.manual_seed(0)
    denoise = NetDenoiser(nets.build(NET, channels=1, size=28, classes=classes), Flow(), "flow", shape=(1, 28, 28))
    if folder is not None:
        latest = Checkpoints(folder / "checkpoints").latest()
        assert latest is not None, f"train {folder} first"
        weights = latest.tensors("ema")
        denoise.net.load_state_dict({key.removeprefix("denoiser."): value for key, value in weights.items()})
        denoise.net.eval().requires_grad_(False)
    return denoise


@torch.no_grad()
def features(runs: Path, images: ImageSet) -> torch.Tensor:
    """Of the unconditional model, in the middle, nearly without noise; mean over places."""
    denoise = model(None, runs / "none")
    point = denoise.schedule.at(LOGSNR / 2.0)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    rows = torch.arange(len(images)).split(500)
    found = [read(denoise, [SITE], point.alpha * images.batch(r)[0] + point.sigma * noise, point) for r in rows]
    return torch.cat([each[SITE].mean(1) for each in found])


def annotated(name: str, runs: Path) -> ImageSet:
    images = data.load("mnist5k", "train")
    if name == "none":
        return replace(images, labels=None, classes=[])
    clustered = guide.clusters(images, features(runs, images), K)
    if name == "random":
        assert clustered.labels is not None
        return replace(clustered, labels=clustered.labels[torch.randperm(len(images))])
    return clustered


def fit(name: str, runs: Path) -> None:
    images = annotated(name, runs)
    denoise = model(K if images.classes else None)
    task = Denoising(denoise, optim.build(denoise.net, CONFIG), LogitNormal(1.0, 1.0), drop=0.1)
    train(task, feed(images, 0), CONFIG, runs / name)


def measure(runs: Path, n: int, seeds: int) -> None:
    extractor, held_out = judge.load("mnist5k"), data.load("mnist5k", "test")
    reference = extractor(held_out.batch(range(len(held_out)))[0])
    rows = []
    for name in ("none", "random", "clusters"):
        images = annotated(name, runs)
        denoise = model(K if images.classes else None, runs / name)
        for scale in (1.0,) if name == "none" else (1.0, 1.5, 2.0):
            each = []
            for seed in range(seeds):
                cond = None if images.labels is None else Cond(label=images.labels[guide.draw(len(images), n, seed)])
                with torch.no_grad():
                    x = rv.sample(guide.cfg(denoise, scale), n, cond, steps=16, seed=seed, batch_size=250)
                drawn = extractor(x.clamp(-1.0, 1.0))
                covered = precision_recall(reference, drawn)
                each.append([frechet_distance(drawn, reference), covered.precision, covered.recall])
            frechet, precision, recall = torch.tensor(each).mean(0).tolist()
            rows.append({"labels": name, "scale": scale, "frechet": frechet, "precision": precision, "recall": recall})
            print(rows[-1], flush=True)
    RESULTS.write_text(json.dumps({"n": n, "seeds": seeds, "k": K, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "measure"])
    parser.add_argument("arguments", nargs="+")
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=2)
    given = parser.parse_args()
    if given.what == "train":
        fit(given.arguments[0], Path(given.arguments[1]))
    else:
        measure(Path(given.arguments[0]), given.n, given.seeds)
