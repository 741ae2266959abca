"""Which network learns the demo's digits best per second? Trains one row of the table, samples it and judges the samples.

    PYTHONPATH=src python bench/demo_search/search.py unet                  # a whole run
    PYTHONPATH=src python bench/demo_search/search.py dit unet --seconds 70 --threads 1

Rows are compared at equal time. ``--seconds`` is processor time of the training thread (with --threads 1), which other
programs on the machine disturb less than the clock; without it a row trains for its own number of images. Each result is a
line of results.jsonl.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from variants import SkipDiT

import reverie as rv
from reverie.core.condition import Cond
from reverie.core.denoiser import NetDenoiser
from reverie.core.schedules import Flow
from reverie.data import load
from reverie.learn import ema
from reverie.learn.muon import Muon
from reverie.measure import judge as judges
from reverie.measure.frechet import frechet_distance
from reverie.nets import DiTConfig, UNetConfig, build
from reverie.nets.prior import Prior

TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A network and how it learns; the rest is the same for all."""

    net: Callable[[], nn.Module]
    kind: str = "flow"
    optimizer: str = "muon"
    lr: float = 0.02
    adam_lr: float = 3e-3
    batch: int = 16
    images: int = 30_000
    prior: int | None = None
    times_mean: float = 0.0


def dit(**choices: object) -> Callable[[], nn.Module]:
    config = DiTConfig(**{"width": 64, "heads": 2, "activation": "relu", **choices})  # pyright: ignore[reportArgumentType]
    return lambda: build(config, channels=1, size=28, classes=10)


def unet(**choices: object) -> Callable[[], nn.Module]:
    config = UNetConfig(**{"blocks": 1, "attention": (2,), "patch": 2, "heads": 2, **choices})  # pyright: ignore[reportArgumentType]
    return lambda: build(config, channels=1, size=28, classes=10)


ROWS = {
    "dit-adamw": Row(net=dit(), optimizer="adamw", adam_lr=2e-3, batch=64),
    "dit-batch64": Row(net=dit(), batch=64),
    "dit": Row(net=dit()),
    "dit-x0": Row(net=dit(), kind="x0"),
    "dit-rate2": Row(net=dit(), lr=0.04, adam_lr=5e-3, batch=32),
    "dit-skips": Row(net=lambda: SkipDiT(width=64, depth=6, heads=2), batch=32),
    "dit-local": Row(net=dit(local=True)),
    "dit-local-batch32": Row(net=dit(local=True), batch=32, images=60_000),
    "dit-local-shallow": Row(net=dit(local=True, depth=4), batch=32, images=85_000),
    "unet": Row(net=unet(width=32, multipliers=(1, 1))),
    "unet-prior": Row(net=unet(width=32, multipliers=(1, 1), groups=4, image=1), batch=32, prior=64, times_mean=0.3),
    "unet-prior-mid": Row(
        net=unet(width=32, multipliers=(1, 1), groups=4, image=1), batch=32, prior=64, times_mean=-0.3
    ),
    "unet-noisy": Row(net=unet(width=32, multipliers=(1, 1), groups=4), batch=32, times_mean=0.3),
    "dit-prior": Row(net=dit(local=True, depth=4, image=1), batch=32, prior=64, times_mean=0.3, images=50_000),
    "unet-rate2": Row(net=unet(width=32, multipliers=(1, 1)), lr=0.04, adam_lr=6e-3),
    "unet-wide": Row(net=unet(width=32, multipliers=(1, 2))),
    "unet-wide-x0": Row(net=unet(width=32, multipliers=(1, 2)), kind="x0"),
    "unet-patch1-adamw": Row(
        net=unet(width=16, multipliers=(1, 2, 4), patch=1, attention=(4,)), optimizer="adamw", batch=64
    ),
    "unet-patch4": Row(net=unet(width=64, multipliers=(1,), patch=4, attention=(1,))),
}


def targets(denoise: NetDenoiser, x0: Tensor, noise: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """The squared error in the velocity, whatever the network predicts; t is held above 0.05 for the others."""
    t = t if denoise.kind.name == "flow" else t.clamp(min=0.05)
    point = denoise.schedule.point(t).align(x0)
    estimate = denoise(point.alpha * x0 + point.sigma * noise, point, cond)
    return (estimate.velocity - (noise - x0)).square().mean()


def train(row: Row, seed: int, seconds: float | None, count: int | None) -> tuple[NetDenoiser, dict[str, float]]:
    """The denoiser with averaged weights, and what its training took."""
    torch.manual_seed(seed)
    some = load("mnist5k", split="train").batch(range(4000))
    images, labels = some.x, some.label
    assert labels is not None
    net = row.net()
    if row.prior is not None:
        net.prior = Prior(10, (1, 28, 28), row.prior)
        net.prior.fit(images, labels)
    denoise = NetDenoiser(net, Flow(), row.kind, shape=(1, 28, 28))
    average = ema.Ema(net, ema.power(0.1))
    optimizer = Muon(net, row.lr, row.adam_lr)
    if row.optimizer == "adamw":
        optimizer = torch.optim.AdamW(net.parameters(), row.adam_lr, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    rates = [group["lr"] for group in optimizer.param_groups]
    total = row.images if count is None else count
    clock, start, seen = time.thread_time, time.thread_time(), 0
    wall = time.perf_counter()
    while (done := seen / total if seconds is None else (clock() - start) / seconds) < 1:
        if seen % 4000 < row.batch:
            order = torch.randperm(4000)
        rows = order[seen % 4000 :][: row.batch]
        cond = Cond(label=labels[rows]).drop(torch.rand(len(rows)) >= 0.1)
        t = (row.times_mean + torch.randn(len(rows))).sigmoid()
        targets(denoise, images[rows], torch.randn(len(rows), 1, 28, 28), t, cond).backward()
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * min(1.0, (done + 1e-4) / 0.03) * (1 - done)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average.update(seen, seen + len(rows))
        seen += len(rows)
    took = {"images": seen, "cpu": clock() - start, "wall": time.perf_counter() - wall}
    net.load_state_dict(average.state_dict())
    return denoise, took


@torch.no_grad()
def judge(denoise: NetDenoiser, scales: list[float], steps: int, seeds: int, below: float | None) -> dict[str, object]:
    """Velocity error on held-out digits by time; accuracy and Fréchet ratio of 1,000 samples by guidance scale."""
    train_set, test_set = load("mnist5k", split="train"), load("mnist5k", split="test")
    some = test_set.batch(range(1000))
    pictures, labels = some.x, some.label
    noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(5))
    losses = [float(targets(denoise, pictures, noise, torch.full((1000,), t), Cond(label=labels))) for t in TIMES]

    critic = judges.load("mnist5k")
    held_out = critic.features(pictures)
    some = train_set.batch(range(4000))
    digits, names = some.x, some.label
    folds = [torch.cat([(names == c).nonzero()[100 * k :][:100, 0] for c in range(10)]) for k in range(4)]
    unit = sum(frechet_distance(critic.features(digits[fold]), held_out) for fold in folds) / 4
    asked = torch.arange(1000) // 100
    results = {}
    for scale in scales:
        accuracy, ratio = 0.0, 0.0
        for seed in range(seeds):
            drawn = rv.sample(
                rv.guide.cfg(denoise, scale, None if below is None else (-math.inf, below)),
                cond=Cond(label=asked),
                solver=rv.solve.DPMpp(order=2),
                steps=steps,
                seed=seed,
            )
            drawn = ((drawn.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
            accuracy += float((critic.logits(drawn).argmax(1) == asked).float().mean()) / seeds
            ratio += frechet_distance(critic.features(drawn), held_out) / unit / seeds
        results[scale] = {"accuracy": round(accuracy, 4), "ratio": round(ratio, 2)}
    return {"loss": [round(loss, 4) for loss in losses], "guidance": results}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="+", choices=ROWS, metavar="ROW", help=f"one of {', '.join(ROWS)}")
    parser.add_argument("--seconds", type=float, help="train for this processor time in place of the row's images")
    parser.add_argument("--images", type=int, help="train on so many images in place of the row's")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scales", type=float, nargs="*", default=[1.5, 2.0, 3.0])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--judge-seeds", type=int, default=1)
    parser.add_argument("--guide-below", type=float, help="guide only below this logsnr")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for name in args.rows:
        denoise, took = train(ROWS[name], args.seed, args.seconds, args.images)
        result = {
            "row": name,
            "seed": args.seed,
            "threads": args.threads,
            "parameters": sum(p.numel() for p in denoise.net.parameters()),
            **{key: round(value, 1) for key, value in took.items()},
            **judge(denoise, args.scales, args.steps, args.judge_seeds, args.guide_below),
        }
        print(json.dumps(result), flush=True)
        with (Path(__file__).parent / "results.jsonl").open("a") as file:
            file.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
