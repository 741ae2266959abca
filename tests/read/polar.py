"""Polar digits: scikit-learn's 8x8 digits with random sign, contrast and brightness, so that pixels say little of the class.

``python tests/read/polar.py`` trains the network of the tests anew (about a minute on one core) and writes ``polar.safetensors``.
"""

from __future__ import annotations

import sys
from itertools import count
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from torch import Tensor

from reverie.core.denoiser import NetDenoiser
from reverie.core.schedules import Cosine
from reverie.core.tensors import combine
from reverie.nets import UNet

FILE = Path(__file__).with_name("polar.safetensors")
SCALE = 3.2
TRAIN = 1297


class Stretch:
    """Pictures in [−1, 1] are diffused at the contrast they were made with."""

    def encode(self, x: Tensor) -> Tensor:
        return SCALE * x

    def decode(self, z: Tensor) -> Tensor:
        return z / SCALE


class Polar(NamedTuple):
    """Pictures (N, 1, 8, 8) in [−1, 1], their digits, and where the strokes are."""

    images: Tensor
    labels: Tensor
    strokes: Tensor


def digits() -> tuple[Tensor, Tensor]:
    """Plain digits in [0, 1] in a fixed random order."""
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    return torch.tensor(data.images).float()[order, None] / 16, torch.tensor(data.target)[order]


def polar(x: Tensor, rng: torch.Generator) -> Tensor:
    """``2·(±g·(x − 0.3) + o)`` with a random sign, g in [0.5, 1.5], o in [−0.5, 0.5]; divided by SCALE."""
    u = torch.rand(3, len(x), 1, 1, 1, generator=rng)
    sign = torch.where(u[0] < 0.5, -1.0, 1.0)
    return 2.0 * (sign * (0.5 + u[1]) * (x - 0.3) + u[2] - 0.5) / SCALE


def bed() -> tuple[Polar, Polar]:
    """Training and test part."""
    x, labels = digits()
    images = polar(x, torch.Generator().manual_seed(1))
    strokes = x[:, 0] > 0.5
    return tuple(Polar(images[s], labels[s], strokes[s]) for s in (slice(None, TRAIN), slice(TRAIN, None)))  # pyright: ignore[reportReturnType]


def network() -> NetDenoiser:
    """The untrained denoiser of the bed, a U-Net of 0.4 million parameters."""
    torch.manual_seed(0)
    net = UNet(channels=1, size=8, width=24, multipliers=(1, 2), blocks=1, attention=(2,))
    return NetDenoiser(net, Cosine(), "v", shape=(1, 8, 8), space=Stretch())


def train(steps: int = 900, batch: int = 128) -> NetDenoiser:
    """v-prediction, AdamW at 3e-3, average of the weights over about 100 steps."""
    torch.set_num_threads(1)
    denoise, (x, _), rng = network(), digits(), torch.Generator().manual_seed(2)
    net, x = denoise.net.train(), x[:TRAIN]
    average = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99))
    solver = torch.optim.AdamW(net.parameters(), lr=3e-3)
    decay = torch.optim.lr_scheduler.OneCycleLR(solver, 3e-3, total_steps=steps + 1, pct_start=0.05)
    for step in count():
        if step == steps:
            break
        rows = torch.randint(len(x), (batch,), generator=rng)
        x0 = denoise.space.encode(polar(x[rows], rng))
        noise = torch.randn(x0.shape, generator=rng)
        point = denoise.schedule.point(torch.rand(batch, generator=rng)).align(x0)
        target = combine((-point.sigma, point.alpha), (x0, noise))
        loss = (denoise(combine((point.alpha, point.sigma), (x0, noise)), point).out - target).square().mean()
        solver.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        solver.step()
        decay.step()
        average.update_parameters(net)
        if step % 50 == 0:
            print(f"{step} {loss.item():.4f}", flush=True)
    net.load_state_dict(average.module.state_dict())
    return denoise


def load() -> NetDenoiser:
    """The trained denoiser of the bed."""
    denoise = network()
    denoise.net.load_state_dict({key: value.float() for key, value in load_file(FILE).items()})
    denoise.net.eval().requires_grad_(False)
    return denoise


if __name__ == "__main__":
    state = train(*map(int, sys.argv[1:])).net.state_dict()
    save_file({key: value.half().contiguous() for key, value in state.items()}, FILE)
    print(FILE, f"{FILE.stat().st_size / 1e6:.2f} MB")
